"""Registering, replacing and deleting workers, by REST and the way another BullMQ Proxy does it."""

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis

from tests.support.endpoint import Answer, Call, Endpoint, StartEndpoint, hang, no_content, reply_json, respond
from tests.support.gateway import Gateway, job, worker
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import StartValkey
from tests.support.waiting import eventually

HASH = "bmqp:w:meta"
STREAM = "bmpq:w:stream"
# Locks that lapse, and stalled jobs that are noticed, while a test can wait for it.
QUICK = {"TORIL_LOCK": "1s", "TORIL_STALLED_INTERVAL": "1s"}


def write_like_bullmq_proxy(store: redis.Redis, queue: str, value: str | None) -> None:
    """What a BullMQ Proxy instance does in one go: HSET or HDEL, and XADD."""
    with store.pipeline(transaction=True) as pipe:
        if value is None:
            pipe.hdel(HASH, queue)
        else:
            pipe.hset(HASH, queue, value)
        pipe.xadd(STREAM, {"worker": queue}, maxlen=100, approximate=False)
        pipe.execute()


def last_entry(store: redis.Redis) -> tuple[str, dict[str, str]] | None:
    """The newest entry of the worker stream."""
    entries = store.xrevrange(STREAM, count=1)
    return entries[0] if entries else None


class TestRegistry:
    """What the routes answer, and what they leave in Redis."""

    def test_a_posted_worker_is_stored_as_posted_and_announced(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, store: redis.Redis
    ) -> None:
        document = {
            "queue": queue,
            "endpoint": {
                "url": endpoint.url,
                "method": "post",
                "headers": {"X-Custom-Header": "v"},
                "timeout": 1500,
            },
            "opts": {
                "concurrency": 5,
                "removeOnComplete": {"count": 100, "age": 3600},
                "removeOnFail": {"count": 1000},
                "limiter": {"max": 10, "duration": 1000},
                "maxStalledCount": 2,
            },
        }
        gateway.register_document(document)
        value = store.hget(HASH, queue)
        assert value is not None
        assert json.loads(value) == document
        entry = last_entry(store)
        assert entry is not None
        assert entry[1] == {"worker": queue}

    def test_workers_are_listed_as_queue_and_url(
        self, gateway: Gateway, endpoint: Endpoint, new_queue: Callable[[], str]
    ) -> None:
        first, second = new_queue(), new_queue()
        gateway.register(first, endpoint.at("/first"))
        gateway.register(second, endpoint.at("/second"), headers={"authorization": "Bearer s3cr3t"})
        listed = gateway.http.get("/workers")
        assert listed.status_code == 200
        assert {name: listed.json()[name] for name in (first, second)} == {
            first: endpoint.at("/first"),
            second: endpoint.at("/second"),
        }
        assert "s3cr3t" not in listed.text

    def test_a_deleted_worker_is_gone_and_announced(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, store: redis.Redis
    ) -> None:
        gateway.register(queue, endpoint.url)
        gateway.unregister(queue)
        assert store.hexists(HASH, queue) == 0
        assert queue not in gateway.http.get("/workers").json()
        entries = store.xrevrange(STREAM, count=2)
        assert [fields for _, fields in entries] == [{"worker": queue}] * 2

    def test_deleting_an_unknown_worker_is_not_found_and_writes_nothing(
        self, gateway: Gateway, queue: str, store: redis.Redis
    ) -> None:
        before = last_entry(store)
        answer = gateway.http.delete(f"/workers/{queue}")
        assert (answer.status_code, answer.text) == (404, "Worker not found")
        assert last_entry(store) == before

    def test_the_stream_is_kept_at_a_hundred_entries(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, store: redis.Redis
    ) -> None:
        for _ in range(60):
            gateway.register(queue, endpoint.url)
            gateway.unregister(queue)
        assert store.xlen(STREAM) == 100

    def test_a_document_without_opts_is_enough(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        gateway.register_document({"queue": queue, "endpoint": {"url": endpoint.url, "method": "POST"}})
        gateway.finished(queue, gateway.add_one(queue))

    @pytest.mark.parametrize("stored", [False, True], ids=["posted", "stored by another instance"])
    @pytest.mark.parametrize(
        "options_and_whether_the_job_stays",
        [
            ({"removeOnComplete": {"count": 0}, "maxStalledCount": 0, "timeout": 0}, False),
            ({"removeOnComplete": {"age": 0}, "limiter": False}, False),
            ({"removeOnComplete": False, "removeOnFail": False}, True),
        ],
    )
    def test_a_document_that_bullmq_proxy_takes_runs(
        self,
        gateway: Gateway,
        endpoint: Endpoint,
        queue: str,
        store: redis.Redis,
        options_and_whether_the_job_stays: tuple[dict[str, Any], bool],
        stored: bool,
    ) -> None:
        more, stays = options_and_whether_the_job_stays
        document = worker(queue, endpoint.url, headers={"x-number": 5, "x-flag": True}, **more)
        if stored:
            write_like_bullmq_proxy(store, queue, json.dumps(document))
        else:
            gateway.register_document(document)
        job_id = gateway.add_one(queue)
        endpoint.wait_for_calls(1)
        call = endpoint.calls[0]
        assert (call.header("x-number"), call.header("x-flag")) == ("5", "true")
        eventually(lambda: store.llen(f"bull:{queue}:active") == 0, what="the job to end")
        assert gateway.exists(queue, job_id) is stays

    def test_options_may_be_false(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        gateway.register_document(worker(queue, endpoint.url) | {"opts": False})
        gateway.finished(queue, gateway.add_one(queue))
        shown = gateway.http.get(f"/workers/{queue}").json()
        assert (shown["state"], shown["opts"]) == ("running", {})

    def test_workers_are_listed_by_state(
        self, gateway: Gateway, endpoint: Endpoint, new_queue: Callable[[], str]
    ) -> None:
        running, paused = new_queue(), new_queue()
        for queue in (running, paused):
            gateway.register(queue, endpoint.url)
        assert gateway.http.post(f"/workers/{paused}/pause").status_code == 204
        for state, there in (("running", running), ("paused", paused)):
            listed = gateway.http.get("/workers", params={"state": state}).json()
            assert {queue: url for queue, url in listed.items() if queue in (running, paused)} == {there: endpoint.url}
        answer = gateway.http.get("/workers", params={"state": "asleep"})
        assert (answer.status_code, answer.text) == (400, "Invalid state asleep, must be running, paused or invalid")

    def test_jobs_that_were_there_before_the_worker_are_worked_on(
        self, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        gateway.add(queue, *(job() for _ in range(5)))
        gateway.register(queue, endpoint.url)
        gateway.wait_for_counts(queue, completed=5)


class TestChange:
    """A worker is replaced or deleted while it works."""

    def test_a_replaced_worker_finishes_on_the_old_endpoint_while_new_jobs_go_to_the_new_one(
        self, gateway: Gateway, start_endpoint: StartEndpoint, queue: str
    ) -> None:
        old, new = start_endpoint(), start_endpoint(lambda _: reply_json("new"))
        gate = old.gate()

        async def behave(_: Call) -> Answer:
            await gate.passed()
            return reply_json("old")

        old.behaviour = behave
        gateway.register(queue, old.url, timeout=60_000)
        in_flight = gateway.add_one(queue)
        old.wait_for_calls(1)
        gateway.register(queue, new.url)
        later = gateway.add_one(queue)
        assert gateway.finished(queue, later)["returnvalue"] == "new"
        assert old.open_calls == 1
        gate.open()
        assert gateway.finished(queue, in_flight)["returnvalue"] == "old"
        assert (len(old.calls), len(new.calls)) == (1, 1)

    def test_a_replaced_worker_takes_no_more_jobs(
        self, gateway: Gateway, start_endpoint: StartEndpoint, queue: str
    ) -> None:
        old, new = start_endpoint(), start_endpoint()
        old.behaviour = lambda _: reply_json("old").after(0.02)
        gateway.register(queue, old.url)
        gateway.add(queue, *(job() for _ in range(100)))
        old.wait_for_calls(3)
        gateway.register(queue, new.url)
        gateway.wait_for_counts(queue, completed=100)
        assert len(old.calls) + len(new.calls) == 100
        assert len(new.calls) >= 50, "the change took effect in the middle"
        assert new.calls[0].at <= old.calls[-1].at + 0.5

    def test_new_options_take_effect_live(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        endpoint.behaviour = lambda _: reply_json(1).after(0.05)
        gateway.register(queue, endpoint.url, concurrency=1)
        gateway.finished(queue, gateway.add_one(queue))
        gateway.register(queue, endpoint.url, concurrency=8)
        gateway.finished(queue, gateway.add_one(queue))
        eventually(lambda: endpoint.open_calls == 0)
        gateway.add(queue, *(job() for _ in range(40)))
        gateway.wait_for_counts(queue, completed=42)
        assert endpoint.max_concurrent == 8

    def test_a_deleted_worker_stops(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, canary: Callable[[], None]
    ) -> None:
        gateway.register(queue, endpoint.url)
        gateway.finished(queue, gateway.add_one(queue))
        gateway.unregister(queue)
        canary()
        gateway.add(queue, job(), job())
        canary()
        assert len(endpoint.calls) == 1
        assert gateway.counts(queue)["waiting"] == 2

    @pytest.mark.parametrize(("method", "path"), [("DELETE", ""), ("POST", "/pause")])
    def test_a_job_added_after_the_answer_is_not_begun(
        self,
        gateway: Gateway,
        endpoint: Endpoint,
        new_queue: Callable[[], str],
        canary: Callable[[], None],
        method: str,
        path: str,
    ) -> None:
        queues = [new_queue() for _ in range(15)]
        for queue in queues:
            gateway.register(queue, endpoint.url)
        for queue in queues:
            assert gateway.http.request(method, f"/workers/{queue}{path}").status_code in {200, 204}
            gateway.add_one(queue)
        canary()
        assert endpoint.calls == []

    def test_the_job_in_flight_of_a_deleted_worker_is_finished(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, canary: Callable[[], None]
    ) -> None:
        gate = endpoint.gate()

        async def behave(_: Call) -> Answer:
            await gate.passed()
            return reply_json("finished")

        endpoint.behaviour = behave
        gateway.register(queue, endpoint.url, timeout=60_000)
        in_flight = gateway.add_one(queue)
        behind = gateway.add_one(queue)
        endpoint.wait_for_calls(1)
        gateway.unregister(queue)
        canary()
        gate.open()
        assert gateway.finished(queue, in_flight)["returnvalue"] == "finished"
        canary()
        assert "processedOn" not in gateway.job(queue, behind)

    def test_a_worker_that_comes_back_goes_on(self, gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
        for _ in range(5):
            gateway.register(queue, endpoint.url)
            gateway.finished(queue, gateway.add_one(queue))
            gateway.unregister(queue)

    def test_a_burst_of_posts_and_deletes_loses_no_change(
        self, gateway: Gateway, endpoint: Endpoint, new_queue: Callable[[], str], canary: Callable[[], None]
    ) -> None:
        queues = [new_queue() for _ in range(50)]
        kept, deleted = queues[::2], queues[1::2]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda name: gateway.register(name, endpoint.url), queues))
            deletions = [pool.submit(gateway.unregister, name) for name in deleted]
            changes = [pool.submit(gateway.register, name, endpoint.at("/changed")) for name in kept]
            for done in (*deletions, *changes):
                done.result()
        canary()
        for name in queues:
            gateway.add_one(name)
        for name in kept:
            gateway.finished(name, "1")
        canary()
        assert sorted(call.job["queueQualifiedName"] for call in endpoint.calls) == sorted(
            f"bull:{name}" for name in kept
        )
        assert {call.target for call in endpoint.calls} == {"/changed"}
        assert all(gateway.counts(name)["waiting"] == 1 for name in deleted)

    @pytest.mark.parametrize("last", ["POST", "DELETE"])
    def test_a_burst_on_one_queue_ends_with_its_last_document(
        self,
        gateway: Gateway,
        start_endpoint: StartEndpoint,
        queue: str,
        canary: Callable[[], None],
        last: str,
    ) -> None:
        endpoint = start_endpoint()
        for number in range(50):
            gateway.register(queue, endpoint.at(f"/{number}"))
            if number < 49 or last == "DELETE":
                gateway.unregister(queue)
        canary()
        gateway.add(queue, job(), job())
        if last == "POST":
            gateway.wait_for_counts(queue, completed=2)
            assert {call.target for call in endpoint.calls} == {"/49"}
        else:
            canary()
            assert endpoint.calls == []
            assert gateway.counts(queue)["waiting"] == 2


class TestLooking:
    """`GET /workers/{queue}`, `POST …/pause` and `…/resume`."""

    def test_a_worker_is_shown_with_its_last_attempts_and_without_secrets(
        self, gateway: Gateway, endpoint: Endpoint, queue: str
    ) -> None:
        endpoint.behaviour = lambda call: respond(503, "Busy") if call.number == 0 else reply_json("fine")
        gateway.register(queue, endpoint.url, headers={"x-key": "s3cret"}, timeout=5000, concurrency=2)
        began = time.time()
        job_id = gateway.add_one(queue, attempts=2)
        gateway.finished(queue, job_id)
        answer = gateway.http.get(f"/workers/{queue}")
        assert "s3cret" not in answer.text
        shown = answer.json()
        recent = shown.pop("recent")
        assert shown == {
            "queue": queue,
            "endpoint": {"url": endpoint.url, "method": "POST", "headers": {"x-key": "(hidden)"}, "timeout": 5000},
            "opts": {"concurrency": 2},
            "state": "running",
        }
        assert [(one["jobId"], one["outcome"], one["status"]) for one in recent] == [
            (job_id, "completed", 200),
            (job_id, "retried", 503),
        ]
        assert all(0 <= one["durationMs"] < 5000 and one["at"] >= began * 1000 - 1000 for one in recent)

    def test_a_paused_worker_takes_no_jobs_until_it_is_resumed(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, store: redis.Redis, canary: Callable[[], None]
    ) -> None:
        gateway.register(queue, endpoint.url)
        gateway.finished(queue, gateway.add_one(queue))
        document = store.hget(HASH, queue)
        for _ in range(2):
            assert gateway.http.post(f"/workers/{queue}/pause").status_code == 204
        assert gateway.http.get(f"/workers/{queue}").json()["state"] == "paused"
        canary()
        job_id = gateway.add_one(queue)
        canary()
        assert len(endpoint.calls) == 1
        # Neither the queue nor what is shared with BullMQ Proxy has changed: others may work on it.
        assert (store.hget(HASH, queue), store.hexists(f"bull:{queue}:meta", "paused")) == (document, 0)
        gateway.register(queue, endpoint.at("/other"))
        canary()
        assert len(endpoint.calls) == 1
        assert gateway.http.post(f"/workers/{queue}/resume").status_code == 204
        gateway.finished(queue, job_id)
        assert endpoint.calls[1].target == "/other"
        assert gateway.http.get(f"/workers/{queue}").json()["state"] == "running"

    def test_a_worker_that_cannot_run_says_why(self, gateway: Gateway, queue: str, store: redis.Redis) -> None:
        write_like_bullmq_proxy(store, queue, '{"queue":"x"}')
        try:
            shown = gateway.http.get(f"/workers/{queue}").json()
            assert (shown["state"], shown["reason"], shown["recent"]) == ("invalid", "endpoint is required", [])
        finally:
            write_like_bullmq_proxy(store, queue, None)

    @pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/pause"), ("POST", "/resume")])
    def test_an_unknown_worker_is_not_found(self, gateway: Gateway, queue: str, method: str, path: str) -> None:
        answer = gateway.http.request(method, f"/workers/{queue}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "worker_not_found")


class TestOtherInstances:
    """The hash and the stream are shared with BullMQ Proxy instances."""

    def test_a_worker_that_another_instance_registers_is_picked_up_changed_and_stopped(
        self,
        gateway: Gateway,
        start_endpoint: StartEndpoint,
        queue: str,
        store: redis.Redis,
        canary: Callable[[], None],
    ) -> None:
        first, second = start_endpoint(), start_endpoint()
        write_like_bullmq_proxy(store, queue, json.dumps(worker(queue, first.url)))
        gateway.finished(queue, gateway.add_one(queue))
        assert len(first.calls) == 1
        assert gateway.http.get("/workers").json()[queue] == first.url

        write_like_bullmq_proxy(store, queue, json.dumps(worker(queue, second.url)))
        canary()
        gateway.finished(queue, gateway.add_one(queue))
        assert (len(first.calls), len(second.calls)) == (1, 1)

        write_like_bullmq_proxy(store, queue, None)
        canary()
        gateway.add_one(queue)
        canary()
        assert (len(first.calls), len(second.calls)) == (1, 1)

    @pytest.mark.parametrize(
        "value",
        [
            "{not json",
            "",
            "null",
            "17",
            "[]",
            "{}",
            '{"queue": 5, "endpoint": ENDPOINT}',
            '{"queue": "QUEUE", "endpoint": {"url": "ftp://host/", "method": "POST"}}',
            '{"queue": "QUEUE", "endpoint": ENDPOINT, "opts": {"concurrency": 0}}',
            '{"queue": "QUEUE", "endpoint": ENDPOINT, "opts": 7}',
        ],
    )
    def test_a_broken_document_is_skipped_and_stops_no_other_worker(
        self,
        toril: TorilProcess,
        gateway: Gateway,
        endpoint: Endpoint,
        new_queue: Callable[[], str],
        store: redis.Redis,
        value: str,
    ) -> None:
        broken, healthy = new_queue(), new_queue()
        target = '{"url": "http://127.0.0.1:1/", "method": "POST"}'
        write_like_bullmq_proxy(store, broken, value.replace("QUEUE", broken).replace("ENDPOINT", target))
        write_like_bullmq_proxy(store, healthy, json.dumps(worker(healthy, endpoint.url)))
        gateway.finished(healthy, gateway.add_one(healthy))
        assert gateway.http.get("/workers").json()[healthy] == endpoint.url
        assert isinstance(gateway.http.get("/workers").json()[broken], str)
        invalid = gateway.http.get("/workers", params={"state": "invalid"}).json()
        assert (broken in invalid, healthy in invalid) == (True, False)
        ready = toril.client.get("/ready")
        assert ready.status_code == 200
        assert any("cannot run" in warning for warning in ready.json()["warnings"])
        write_like_bullmq_proxy(store, broken, json.dumps(worker(broken, endpoint.url)))
        gateway.finished(broken, gateway.add_one(broken))

    def test_odd_stream_entries_are_skipped(
        self, gateway: Gateway, endpoint: Endpoint, queue: str, store: redis.Redis
    ) -> None:
        store.xadd(STREAM, {"something": "else"})
        store.xadd(STREAM, {"worker": "nobody-registered-this"})
        store.xadd(STREAM, {"worker": "no:such:name"})
        store.xadd(STREAM, {"worker": ""})
        write_like_bullmq_proxy(store, queue, json.dumps(worker(queue, endpoint.url)))
        gateway.finished(queue, gateway.add_one(queue))

    def test_broken_documents_do_not_stop_the_start_up(
        self, start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
    ) -> None:
        valkey = start_valkey()
        store = valkey.client()
        store.hset(HASH, "broken-json", "{")
        store.hset(HASH, "no:colons", json.dumps(worker("no:colons", endpoint.url)))
        store.hset(HASH, "zero", json.dumps(worker("zero", endpoint.url, concurrency=0)))
        store.hset(HASH, "healthy", json.dumps(worker("healthy", endpoint.url)))
        toril = start_toril(valkey)
        toril.gateway.finished("healthy", toril.gateway.add_one("healthy"))
        assert toril.gateway.http.get("/workers").status_code == 200
        assert toril.gateway.http.get("/workers").json()["healthy"] == endpoint.url
        for name in ("broken-json", "no:colons", "zero"):
            assert name in toril.log(), "a skipped document is logged"

    def test_a_worker_whose_stream_entry_was_trimmed_is_caught_up(
        self, start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
    ) -> None:
        valkey = start_valkey()
        store = valkey.client()
        toril = start_toril(valkey)
        toril.gateway.register("deleted-meanwhile", endpoint.at("/deleted"))
        toril.gateway.finished("deleted-meanwhile", toril.gateway.add_one("deleted-meanwhile"))
        with toril.frozen():
            write_like_bullmq_proxy(store, "missed", json.dumps(worker("missed", endpoint.url)))
            write_like_bullmq_proxy(store, "deleted-meanwhile", None)
            for number in range(150):
                write_like_bullmq_proxy(store, f"noise-{number}", None)
        toril.gateway.finished("missed", toril.gateway.add_one("missed"), timeout_s=40)
        toril.gateway.add_one("deleted-meanwhile")
        toril.gateway.finished("missed", toril.gateway.add_one("missed"))
        assert [call.target for call in endpoint.calls] == ["/deleted", "/hook", "/hook"]

    def test_changes_made_while_no_instance_ran_are_found_at_start(
        self, start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
    ) -> None:
        valkey = start_valkey()
        store = valkey.client()
        write_like_bullmq_proxy(store, "before", json.dumps(worker("before", endpoint.url)))
        store.hset(HASH, "unannounced", json.dumps(worker("unannounced", endpoint.url)))
        toril = start_toril(valkey)
        for name in ("before", "unannounced"):
            toril.gateway.finished(name, toril.gateway.add_one(name))


def test_a_thousand_idle_workers_share_a_handful_of_connections(
    start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
) -> None:
    endpoint.behaviour = lambda _: no_content()
    valkey = start_valkey()
    store = valkey.client()
    documents = {f"idle-{n}": json.dumps(worker(f"idle-{n}", endpoint.url)) for n in range(1000)}
    store.hset(HASH, mapping=documents)
    mine = {client["id"] for client in store.client_list()}
    toril = start_toril(valkey)
    theirs = [client for client in store.client_list() if client["id"] not in mine]
    assert len(theirs) <= 8
    for name in ("idle-0", "idle-499", "idle-999"):
        (added,) = toril.gateway.add(name, job())
        done = toril.gateway.finished(name, added["id"])
        assert done["processedOn"] - added["timestamp"] <= 500
    assert len(endpoint.calls) == 3


def test_two_instances_see_each_other_s_workers(
    start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
) -> None:
    valkey = start_valkey()
    first, second = start_toril(valkey), start_toril(valkey)
    endpoint = start_endpoint(lambda _: reply_json(1).after(0.05))
    first.gateway.register("shared", endpoint.url)
    assert second.gateway.http.get("/workers").json() == {"shared": endpoint.url}
    second.gateway.add("shared", *(job() for _ in range(30)))
    first.gateway.wait_for_counts("shared", completed=30)
    assert len({call.token.split(":")[0] for call in endpoint.calls}) == 2, "both took jobs"
    assert endpoint.max_concurrent == 2, "each instance has the worker's concurrency"

    second.gateway.unregister("shared")
    eventually(lambda: first.gateway.http.get("/workers").json() == {})
    probe = start_endpoint()
    second.gateway.register("probe", probe.url)
    for _ in range(4):
        first.gateway.finished("probe", first.gateway.add_one("probe"))
    calls = len(endpoint.calls)
    first.gateway.add("shared", job(), job())
    for _ in range(4):
        first.gateway.finished("probe", first.gateway.add_one("probe"))
    assert len(endpoint.calls) == calls
    assert first.gateway.counts("shared")["waiting"] == 2


def test_the_other_instance_goes_on_when_one_ends(
    start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
) -> None:
    valkey = start_valkey()
    first, second = start_toril(valkey), start_toril(valkey)
    first.gateway.register("shared", endpoint.url)
    first.gateway.finished("shared", first.gateway.add_one("shared"))
    assert first.terminate().code == 0
    second.gateway.finished("shared", second.gateway.add_one("shared"))


def test_a_restart_keeps_the_workers(start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint) -> None:
    valkey = start_valkey()
    first = start_toril(valkey)
    first.gateway.register("kept", endpoint.url, concurrency=2)
    first.gateway.register("dropped", endpoint.url)
    first.gateway.unregister("dropped")
    job_id = first.gateway.add_one("late", delay=60_000)
    assert first.terminate().code == 0
    second = start_toril(valkey)
    assert second.gateway.http.get("/workers").json() == {"kept": endpoint.url}
    second.gateway.finished("kept", second.gateway.add_one("kept"))
    assert second.gateway.job("late", job_id)["delay"] == 60_000


class TestLosingRedis:
    """Redis loses everything while workers are registered."""

    def test_the_workers_of_a_fleet_go_on_and_are_put_back(
        self, start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
    ) -> None:
        store = start_valkey()
        first, second = start_toril(store), start_toril(store)
        for queue in ("orders", "mails", "paused", "removed"):
            first.gateway.register(queue, endpoint.url)
        assert first.client.post("/workers/paused/pause").status_code == 204
        first.gateway.finished("orders", first.gateway.add_one("orders"))
        second.gateway.finished("mails", second.gateway.add_one("mails"))
        with store.client() as client:
            documents = client.hgetall(HASH)
            client.flushall()
            ready = first.client.get("/ready")
            assert (ready.status_code, ready.json()["reasons"]) == (
                503,
                ["Redis has lost the registered workers; they are being put back"],
            )
            assert first.client.delete("/workers/removed").status_code == 404
            del documents["removed"]
            eventually(lambda: client.hgetall(HASH) == documents, timeout_s=30, what="the workers to be put back")
            eventually(
                lambda: {first.status("/ready"), second.status("/ready")} == {200},
                timeout_s=40,
                what="both to be ready",
            )
            assert all("registry.lost" in toril.log() for toril in (first, second))
            assert client.hgetall(HASH) == documents
        jobs = [(queue, second.gateway.add_one(queue)) for queue in ("orders", "mails")]
        for queue, job_id in jobs:
            first.gateway.finished(queue, job_id)
        assert first.client.get("/workers/paused").json()["state"] == "paused"

    def test_a_worker_removed_by_another_program_stops_and_is_not_put_back(
        self, start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint
    ) -> None:
        store = start_valkey()
        toril = start_toril(store)
        for queue in ("orders", "mails"):
            toril.gateway.register(queue, endpoint.url)
            toril.gateway.finished(queue, toril.gateway.add_one(queue))
        with store.client() as client:
            client.hdel(HASH, "orders")
            eventually(lambda: "consumer.stopped" in toril.log(), timeout_s=8, what="the worker to stop")
            toril.gateway.add_one("orders")
            toril.gateway.finished("mails", toril.gateway.add_one("mails"))
            assert list(client.hgetall(HASH)) == ["mails"]
        assert toril.gateway.counts("orders")["waiting"] == 1
        assert toril.client.get("/ready").status_code == 200


class TestLeases:
    """The lock of a job in flight: renewed while we work, obeyed when it is lost."""

    def test_a_job_longer_than_the_lock_is_called_once(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
    ) -> None:
        valkey = start_valkey()
        first = start_toril(valkey, env=QUICK)
        start_toril(valkey, env=QUICK)
        endpoint = start_endpoint(lambda _: reply_json("slow but sure").after(4))
        first.gateway.register("slow", endpoint.url, timeout=20_000, concurrency=10)
        first.gateway.add("slow", *(job() for _ in range(10)))
        first.gateway.wait_for_counts("slow", completed=10, timeout_s=40)
        assert len(endpoint.calls) == 10

    def test_a_lost_lease_cancels_the_attempt_and_writes_nothing(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
    ) -> None:
        valkey = start_valkey()
        store = valkey.client()
        toril = start_toril(valkey, env={"TORIL_LOCK": "1s", "TORIL_STALLED_INTERVAL": "60s"})
        endpoint = start_endpoint(lambda _: hang())
        toril.gateway.register("lost", endpoint.url, timeout=60_000)
        job_id = toril.gateway.add_one("lost")
        (call,) = endpoint.wait_for_calls(1)
        lock = f"bull:lost:{job_id}:lock"
        store.set(lock, "somebody-else:0")
        before = store.hgetall(f"bull:lost:{job_id}")
        eventually(lambda: endpoint.gone(call), what="the attempt to be cancelled")
        toril.gateway.register("probe", start_endpoint().url)
        toril.gateway.finished("probe", toril.gateway.add_one("probe"))
        assert store.hgetall(f"bull:lost:{job_id}") == before
        assert store.lrange("bull:lost:active", 0, -1) == [job_id]
        assert store.get(lock) == "somebody-else:0"

    def test_a_lock_that_has_expired_is_taken_back_while_nobody_else_has_begun_the_job(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
    ) -> None:
        valkey = start_valkey()
        store = valkey.client()
        toril = start_toril(valkey, env={"TORIL_LOCK": "1s", "TORIL_STALLED_INTERVAL": "60s"})
        endpoint = start_endpoint(lambda _: reply_json("done").after(3))
        toril.gateway.register("lapsed", endpoint.url, timeout=60_000)
        job_id = toril.gateway.add_one("lapsed")
        endpoint.wait_for_calls(1)
        lock = f"bull:lapsed:{job_id}:lock"
        token = store.get(lock)
        store.delete(lock)
        eventually(lambda: store.get(lock) == token, what="the lock to be taken back")
        assert toril.gateway.finished("lapsed", job_id)["returnvalue"] == "done"
        assert len(endpoint.calls) == 1

    def test_the_job_of_a_killed_instance_is_taken_up_when_another_one_starts(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
    ) -> None:
        valkey = start_valkey()
        endpoint = start_endpoint(lambda call: hang() if call.number == 0 else reply_json("taken up"))
        # No check in between is of any help.
        settings = {"TORIL_LOCK": "1s", "TORIL_STALLED_INTERVAL": "600s"}
        victim = start_toril(valkey, env=settings)
        victim.gateway.register("left", endpoint.url, timeout=60_000)
        job_id = victim.gateway.add_one("left")
        endpoint.wait_for_calls(1)
        victim.kill()
        done = start_toril(valkey, env=settings).gateway.finished("left", job_id)
        assert (done["returnvalue"], done["stalledCounter"]) == ("taken up", 1)

    @pytest.mark.slow
    def test_a_job_that_stalls_too_often_fails(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
    ) -> None:
        valkey = start_valkey()
        endpoint = start_endpoint()
        gate = endpoint.gate()

        async def behave(_: Call) -> Answer:
            await gate.passed()
            return no_content()

        endpoint.behaviour = behave
        watcher = start_toril(valkey, env={"TORIL_LOCK": "1s", "TORIL_STALLED_INTERVAL": "60s"})
        watcher.gateway.register("stalls", endpoint.url, timeout=60_000)
        watcher.terminate()
        for number in (1, 2):
            victim = start_toril(valkey, env=QUICK)
            if number == 1:
                victim.gateway.add_one("stalls")
            endpoint.wait_for_calls(number, timeout_s=40)
            victim.kill()
        last = start_toril(valkey, env=QUICK)
        done = last.gateway.finished("stalls", "1", timeout_s=40)
        assert done["failedReason"] == "job stalled more than allowable limit"
        assert done["stalledCounter"] == 2
        assert len(endpoint.calls) == 2

    @pytest.mark.slow
    def test_a_frozen_instance_s_job_is_taken_over_and_it_writes_nothing_when_it_wakes(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
    ) -> None:
        valkey = start_valkey()
        store = valkey.client()
        endpoint = start_endpoint()
        gate = endpoint.gate()

        async def behave(call: Call) -> Answer:
            if call.number == 0:
                await gate.passed()
                return reply_json("from the frozen one")
            return reply_json("from the other")

        endpoint.behaviour = behave
        frozen = start_toril(valkey, env=QUICK)
        frozen.gateway.register("ice", endpoint.url, timeout=60_000)
        frozen.gateway.add_one("ice")
        endpoint.wait_for_calls(1)
        other = start_toril(valkey, env=QUICK)
        with frozen.frozen():
            done = other.gateway.finished("ice", "1", timeout_s=40)
            gate.open()
            eventually(lambda: endpoint.open_calls == 0)
        assert done["returnvalue"] == "from the other"
        frozen.gateway.finished("ice", frozen.gateway.add_one("ice"))
        assert other.gateway.job("ice", "1") == done
        events = [fields for _, fields in store.xrange("bull:ice:events") if fields.get("jobId") == "1"]
        assert [event["event"] for event in events].count("completed") == 1
        assert "failed" not in {event["event"] for event in events}


class TestProcesses:
    """``--processes N``: a worker's options mean the same whatever N."""

    def test_concurrency_is_for_all_processes_together(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
    ) -> None:
        toril = start_toril(start_valkey(), args=("--processes", "2"))
        three = start_endpoint(lambda _: reply_json(1).after(0.05))
        one = start_endpoint(lambda _: reply_json(1).after(0.02))
        toril.gateway.register("three", three.url, concurrency=3)
        toril.gateway.register("one", one.url, concurrency=1)
        _work_until_concurrent(toril, "three", three, 3)
        toril.gateway.add("three", *(job() for _ in range(30)))
        toril.gateway.add("one", *(job() for _ in range(20)))
        toril.gateway.wait_for_counts("three", waiting=0, active=0)
        toril.gateway.wait_for_counts("one", completed=20)
        assert three.max_concurrent == 3
        assert one.max_concurrent == 1

    def test_the_limiter_is_for_all_processes_together(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
    ) -> None:
        toril = start_toril(start_valkey(), args=("--processes", "2"))
        endpoint = start_endpoint()
        toril.gateway.register("limited", endpoint.url, concurrency=4, limiter={"max": 4, "duration": 800})
        toril.gateway.add("limited", *(job() for _ in range(12)))
        toril.gateway.wait_for_counts("limited", completed=12)
        times = sorted(call.at for call in endpoint.calls)
        assert times[4] - times[0] >= 0.6
        assert times[8] - times[4] >= 0.6

    def test_every_process_serves_and_reports_work(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
    ) -> None:
        toril = start_toril(start_valkey(), args=("--processes", "2"))
        endpoint = start_endpoint()

        async def behave(call: Call) -> Answer:
            async with httpx.AsyncClient(headers={"authorization": f"Bearer {call.token}"}, trust_env=False) as http:
                answer = await http.post(f"{toril.url}/queues/told/jobs/{call.job['id']}/logs", json="line")
            return reply_json(answer.status_code)

        endpoint.behaviour = behave
        toril.gateway.register("told", endpoint.url, concurrency=4)
        for _ in range(20):
            with httpx.Client(base_url=toril.url, headers=dict(toril.client.headers)) as fresh:
                assert fresh.post("/queues/told/jobs", json=[job()]).status_code == 200
        toril.gateway.wait_for_counts("told", completed=20)
        page = toril.gateway.jobs("told", statuses="completed", length=20)
        assert {one["returnvalue"] for one in page["jobs"]} == {200}

    def test_a_registration_reaches_every_process(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
    ) -> None:
        toril = start_toril(start_valkey(), args=("--processes", "2"))
        endpoint = start_endpoint(lambda _: reply_json(1).after(0.02))
        toril.gateway.register("both", endpoint.url, concurrency=2)
        toril.gateway.finished("both", toril.gateway.add_one("both"))
        toril.gateway.unregister("both")
        toril.gateway.register("probe", start_endpoint().url, concurrency=2)
        toril.gateway.add("probe", *(job() for _ in range(50)))
        toril.gateway.wait_for_counts("probe", completed=50)
        toril.gateway.add("both", *(job() for _ in range(5)))
        toril.gateway.add("probe", *(job() for _ in range(50)))
        toril.gateway.wait_for_counts("probe", completed=100)
        assert len(endpoint.calls) == 1

    def test_a_killed_child_is_replaced(
        self, start_valkey: StartValkey, start_toril: StartToril, start_endpoint: StartEndpoint
    ) -> None:
        toril = start_toril(start_valkey(), args=("--processes", "2"), env=QUICK)
        children = toril.children()
        assert len(children) == 2
        os.kill(children[0], signal.SIGKILL)
        eventually(lambda: len(set(toril.children()) - set(children)) == 1, what="a new child")
        eventually(lambda: toril.status("/ready") == 200)
        endpoint = start_endpoint(lambda _: reply_json(1).after(0.05))
        toril.gateway.register("again", endpoint.url, concurrency=4)
        _work_until_concurrent(toril, "again", endpoint, 4)
        toril.gateway.add("again", *(job() for _ in range(20)))
        toril.gateway.wait_for_counts("again", waiting=0, active=0)
        assert endpoint.max_concurrent == 4


def _work_until_concurrent(toril: TorilProcess, queue: str, endpoint: Endpoint, wanted: int) -> None:
    """Give the queue work until so many calls were open at once: a process may be ready before its sibling."""

    def probe() -> bool:
        if toril.gateway.counts(queue)["waiting"] < wanted:
            toril.gateway.add(queue, *(job() for _ in range(2 * wanted)))
        return endpoint.max_concurrent >= wanted

    eventually(probe, timeout_s=30, what=f"{wanted} calls at once")


def test_a_hundred_changes_in_a_row_leave_the_worker_working(gateway: Gateway, endpoint: Endpoint, queue: str) -> None:
    for number in range(100):
        gateway.register(queue, endpoint.at(f"/{number}"))
    began = time.monotonic()
    gateway.finished(queue, gateway.add_one(queue))
    assert time.monotonic() - began < 8, "and not only when it polls"
