"""Every door says so when a change could not be confirmed as `acknowledge` asks."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.deliveries import LATER, configuration
from tests.support.endpoint import Endpoint
from tests.support.proxq import Backend, started
from tests.support.sockets import socket_to
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

ENV = {"TORIL_ACKNOWLEDGE": "replicas:1", "TORIL_ACKNOWLEDGE_TIMEOUT": "100ms"}
UNCONFIRMED = "It may have been written, but that was not confirmed: 0 of 1 replicas have it in time"
_numbers = count(1)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """A master whose one replica is frozen, so that nothing is confirmed."""
    folder = tmp_path_factory.mktemp("pair")
    with ValkeyProcess(folder / "master", config={"repl-diskless-sync-delay": "0"}) as master:
        replica = ValkeyProcess(folder / "replica", config={"replicaof": f"127.0.0.1 {master.port}"})
        with replica:
            eventually(lambda: master.client().info("replication").get("connected_slaves") == 1, timeout_s=30)
            replica.pause()
            yield master


@pytest.fixture(scope="module")
def toril(master: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorilProcess]:
    folder = tmp_path_factory.mktemp("toril")
    file = configuration(folder / "toril.yaml", {"shop": "http://127.0.0.1:1"}, **{"ledger.url": "none"})
    server = TorilProcess(master.url, folder / "toril.log", env=ENV, args=("--config", str(file)))
    try:
        yield server.start(wait_for="/health")
    finally:
        server.close()
    assert server.complaints() == []


@pytest.fixture
def queue() -> str:
    return f"doubtful-{next(_numbers)}"


def put(toril: TorilProcess, queue: str, job_id: str, **opts: Any) -> None:
    """Add a job, of which the caller is told that it is not confirmed."""
    job = {"name": "n", "data": 1, "opts": {"jobId": job_id} | opts}
    refused(toril, "POST", f"/queues/{queue}/jobs", [job])


def refused(toril: TorilProcess, method: str, path: str, body: Any = None, **headers: str) -> None:
    answer = toril.client.request(method, path, json=body, headers=headers)
    assert (answer.status_code, answer.headers.get("toril-code")) == (503, "unconfirmed"), answer.text
    assert UNCONFIRMED in answer.text
    assert answer.headers["retry-after"] == "1"


class TestChangesOverRest:
    """The change is there, but it was not confirmed, and the caller is told so."""

    def test_jobs_flows_and_copies(self, toril: TorilProcess, queue: str) -> None:
        put(toril, queue, "first")
        refused(toril, "POST", "/flows", {"name": "n", "queueName": queue, "opts": {"jobId": "flow"}})
        refused(toril, "POST", f"/queues/{queue}/jobs/first/copy", {})
        assert toril.gateway.counts(queue)["waiting"] == 3

    def test_actions_on_one_job(self, toril: TorilProcess, queue: str) -> None:
        put(toril, queue, "late", delay=3_600_000)
        job = f"/queues/{queue}/jobs/late"
        refused(toril, "PUT", f"{job}/data", {"a": 1})
        refused(toril, "PUT", f"{job}/delay", {"delay": 1_800_000})
        refused(toril, "POST", f"{job}/promote", {})
        refused(toril, "PUT", f"{job}/priority", {"priority": 3})
        refused(toril, "DELETE", job)
        assert not toril.gateway.exists(queue, "late")

    def test_schedulers(self, toril: TorilProcess, queue: str) -> None:
        path = f"/queues/{queue}/schedulers/hourly"
        refused(toril, "PUT", path, {"every": 3_600_000})
        assert toril.client.get(path).status_code == 200
        refused(toril, "DELETE", path)
        assert toril.client.get(path).status_code == 404

    def test_what_changes_nothing_is_not_confirmed(self, toril: TorilProcess, queue: str) -> None:
        assert toril.client.delete(f"/queues/{queue}/schedulers/none").status_code == 404
        assert toril.client.post(f"/queues/{queue}/jobs/none/promote", json={}).status_code == 404
        assert toril.client.get(f"/queues/{queue}/jobs").status_code == 200

    def test_queues_and_their_groups(self, toril: TorilProcess, queue: str) -> None:
        put(toril, queue, "one")
        refused(toril, "POST", f"/queues/{queue}/pause")
        refused(toril, "POST", f"/queues/{queue}/resume")
        refused(toril, "PUT", f"/queues/{queue}/groups/a", {"concurrency": 2})
        refused(toril, "POST", f"/queues/{queue}/trim-events", {"maxLength": 0})
        refused(toril, "POST", f"/queues/{queue}/drain", {})
        assert toril.gateway.counts(queue)["waiting"] == 0

    def test_many_jobs_at_once(self, toril: TorilProcess, queue: str) -> None:
        ids = [f"late-{number}" for number in range(60)]
        jobs = [{"name": "n", "data": 1, "opts": {"jobId": job_id, "delay": 3_600_000}} for job_id in ids]
        refused(toril, "POST", f"/queues/{queue}/jobs", jobs)
        refused(toril, "POST", f"/queues/{queue}/bulk", {"action": "promote", "ids": ids[:30]})
        assert toril.gateway.counts(queue)["waiting"] == 30
        body = {"action": "promote", "states": ["delayed"]}
        answer = toril.client.post(f"/queues/{queue}/bulk", json=body, headers={"accept": "text/event-stream"})
        *_, last = answer.text.strip().split("\n\n")
        assert "event: error" in last, answer.text
        assert '"code":"unconfirmed"' in last
        assert toril.gateway.counts(queue)["waiting"] == 60

    def test_several_settlements_at_once(self, toril: TorilProcess, queue: str) -> None:
        put(toril, queue, "one")
        put(toril, queue, "two")
        leased = toril.client.post(f"/queues/{queue}/lease", json={"count": 2, "wait_ms": 5000}).json()["jobs"]
        items = [
            {"id": one["job"]["id"], "token": one["token"], "action": action, **more}
            for one, (action, more) in zip(
                leased, (("complete", {"returnvalue": 1}), ("fail", {"reason": "no"})), strict=True
            )
        ]
        results = toril.client.post(f"/queues/{queue}/settle", json={"jobs": items}).json()["results"]
        assert [(one["status"], one["code"]) for one in results] == [(503, "unconfirmed")] * 2, results
        assert toril.gateway.counts(queue)["completed"] == 1


class TestSockets:
    def test_commands_on_a_queue(self, toril: TorilProcess, queue: str) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}") as socket:
            for fn, *args in (("add", "n", {"a": 1}), ("pause",), ("resume",)):
                answer = socket.command(fn, *args)
                assert (answer["code"], UNCONFIRMED in answer["message"]) == ("unconfirmed", True), answer
        assert toril.gateway.counts(queue)["waiting"] == 1

    def test_a_worker_is_told_of_a_result_that_is_not_confirmed(self, toril: TorilProcess, queue: str) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}/process/2?payload=job") as socket:
            put(toril, queue, "one")
            (job,) = socket.jobs(1)
            socket.finish(job)
            answer = socket.receive()
            assert (answer["id"], answer["err"]["code"]) == (job["id"], "unconfirmed"), answer
            assert toril.gateway.finished(queue, "one")["returnvalue"] == "done"
            put(toril, queue, "two")
            (job,) = socket.jobs(1)
            socket.finish(job)
            # It is told before the socket is closed, whenever that is.
            socket.send({"data": {"type": "stop"}})
            assert socket.receive()["err"]["code"] == "unconfirmed"
            assert socket.closed() == 1000

    def test_a_worker_of_the_original_is_told_nothing(
        self, toril: TorilProcess, master: ValkeyProcess, queue: str
    ) -> None:
        with socket_to(toril.url, f"/ws/queues/{queue}/process/1") as socket:
            put(toril, queue, "one")
            (job,) = socket.jobs(1)
            socket.finish(job)
            toril.gateway.finished(queue, "one")
            put(toril, queue, "two")
            # Its protocol has no answer to a result: the next message is the next job.
            (job,) = socket.jobs(1)
            assert job["data"]["payload"] == 1


def test_the_log_says_that_results_of_pushed_jobs_are_not_confirmed(
    start_toril: StartToril, master: ValkeyProcess, endpoint: Endpoint, queue: str
) -> None:
    # The other toril here must not work on it.
    alone = {"WORKER_METADATA_KEY": f"{queue}:workers", "WORKER_METADATA_STREAM": f"{queue}:news"}
    toril = start_toril(master, wait_for="/health", env=ENV | alone)
    toril.gateway.register(queue, endpoint.url)
    put(toril, queue, "one")
    toril.gateway.finished(queue, "one")
    eventually(lambda: '"settle.unconfirmed"' in toril.log())


def test_deliveries_whose_ledger_is_redis(toril: TorilProcess) -> None:
    envelope = {"target": "shop", **LATER}
    refused(toril, "POST", "/enqueue", envelope, **{"idempotency-key": "a"})
    # The second try finds the first one, and is not confirmed either.
    refused(toril, "POST", "/enqueue", envelope, **{"idempotency-key": "a"})
    (job,) = toril.client.get("/jobs").json()["jobs"]
    batch = toril.client.post("/enqueue/batch", json=[envelope, {"target": "none"}])
    assert [one["error"]["code"] for one in batch.json()] == ["unconfirmed", "unknown_target"], batch.text
    refused(toril, "DELETE", f"/jobs/{job['job_id']}")
    assert toril.client.get(f"/jobs/{job['job_id']}").json()["status"] == "cancelled"


def test_proxied_requests(tmp_path: Path, master: ValkeyProcess, backend: Backend) -> None:
    process, proxq = started(tmp_path, master, {"upstreams": [{"prefix": "/", "url": backend.url}]}, env=ENV)
    try:
        process.start("/__toril/health")
        for _ in range(2):
            answer = proxq.send("GET", "/echo", [("idempotency-key", "a")])
            assert (answer.status, answer.json["message"]) == (503, UNCONFIRMED)
        (waiting,) = (key for key in master.client().keys(f"bull:{proxq.queue}*") if key.count("-") > 4)
        job_id = waiting.split(":")[-1]
        refused = proxq.cancel(job_id)
        assert (refused.status, refused.json["message"]) == (503, UNCONFIRMED)
    finally:
        process.close()
