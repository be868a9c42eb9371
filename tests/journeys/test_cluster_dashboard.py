"""What the dashboard asks for, on a Redis Cluster of three real nodes: queues on each, and two instances."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from tests.journeys.test_cluster import ENVIRONMENT
from tests.journeys.test_pull_workers import end, lease
from tests.support.cluster import SLOTS, start_nodes
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Answer, Call, StartEndpoint, reply_json, respond
from tests.support.gateway import Gateway, job
from tests.support.sockets import socket_to
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

QUEUES = [f"{{q{number}}}" for number in range(6)]
SOON_S = 40.0
"""Statistics are written every ten seconds."""


@pytest.fixture
def nodes(start_valkey: Callable[..., ValkeyProcess]) -> list[ValkeyProcess]:
    return start_nodes(start_valkey, 3)


@pytest.fixture
def pair(nodes: list[ValkeyProcess], start_toril: StartToril) -> tuple[TorilProcess, TorilProcess]:
    """Two instances, which know the cluster by different nodes."""
    one, two = (start_toril(node, env=ENVIRONMENT) for node in nodes[:2])
    return one, two


def get(gateway: Gateway, path: str, **query: Any) -> Any:
    answer = gateway.http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def fails_twos(call: Call) -> Answer:
    return respond(500, "Out of order") if call.job["data"]["n"] % 2 else reply_json({})


def test_statistics_searches_and_the_audit_log_span_the_nodes(
    pair: tuple[TorilProcess, TorilProcess], start_endpoint: StartEndpoint
) -> None:
    assert {key_slot(f"bull:{queue}:wait".encode()) * 3 // SLOTS for queue in QUEUES} == {0, 1, 2}
    gateways, endpoint = [one.gateway for one in pair], start_endpoint(fails_twos)
    for number, queue in enumerate(QUEUES):
        gateway = gateways[number % 2]
        gateway.register(queue, endpoint.url, concurrency=5)
        for added in gateway.add(queue, *(job({"n": n, "customer": {"id": number * 100 + n}}) for n in range(10))):
            gateway.finished(queue, added["id"])
    for gateway in gateways:
        listed = eventually(
            lambda gateway=gateway: get(gateway, "/queues", limit=100)["queues"][5:] and get(gateway, "/queues")
        )
        assert [one["name"] for one in listed["queues"]] == QUEUES
        for number, queue in enumerate(QUEUES):
            found = get(gateway, f"/queues/{queue}/search", where=f"data.customer.id = {number * 100 + 7}")
            assert ([one["data"]["n"] for one in found["jobs"]], found["total"], found["next_cursor"]) == (
                [7],
                10,
                None,
            )
            failed = get(
                gateway, f"/queues/{queue}/search", where="failedReason ~ order", states="failed", order="oldest"
            )
            assert sorted(one["data"]["n"] for one in failed["jobs"]) == [1, 3, 5, 7, 9]
            (attempt,) = get(gateway, f"/queues/{queue}/jobs/{failed['jobs'][0]['id']}/attempts")["attempts"]
            assert (attempt["outcome"], attempt["status"], attempt["worker"]) == ("failed", 500, "push")

    def counted(gateway: Gateway) -> bool:
        door = get(gateway, "/stats")["doors"]["queues"]
        totals = tuple(sum(door[name]) for name in ("accepted", "finished", "failed", "attempts", "attempts_failed"))
        each = get(gateway, "/stats", queues=",".join(QUEUES))["queues"]
        return totals == (60, 30, 30, 60, 30) and all(sum(each[queue]["finished"]) == 5 for queue in QUEUES)

    for gateway in gateways:
        eventually(lambda gateway=gateway: counted(gateway), timeout_s=SOON_S)
    found = get(gateways[0], "/stats")
    assert {(one["reason"], one["where"], one["times"]) for one in found["reasons"]} == {
        ("Out of order", queue, 5) for queue in QUEUES
    }
    assert found["doors"]["queues"]["queues"] == len(QUEUES)
    for gateway in gateways:
        lines = eventually(lambda gateway=gateway: len(found := get(gateway, "/audit")["lines"]) >= 6 and found)
        assert [line["action"] for line in lines] == ["POST /workers"] * 6


def test_actions_on_many_jobs_and_who_is_connected_span_the_nodes(pair: tuple[TorilProcess, TorilProcess]) -> None:
    one, two = pair
    for queue in QUEUES:
        ids = [added["id"] for added in one.gateway.add(queue, *(job({"n": n}) for n in range(30)))]
        dry = {"action": "remove", "where": "data.n < 20", "dry_run": True}
        assert two.client.post(f"/queues/{queue}/bulk", json=dry).json()["matched"] == 20
        done = two.client.post(f"/queues/{queue}/bulk", json={"action": "remove", "where": "data.n < 20"}).json()
        assert (done["matched"], done["done"]) == (20, 20)
        copied = two.client.post(f"/queues/{queue}/jobs/{ids[25]}/copy", json={})
        assert copied.json()["data"] == {"n": 25}
        (held,) = lease(one.gateway, queue, worker="cron")
        with socket_to(two.url, f"/ws/queues/{queue}/process/1") as worker:
            (message,) = worker.jobs(1)
            for gateway in (two.gateway, one.gateway):
                shown = eventually(
                    lambda gateway=gateway, queue=queue: (
                        (all_of_them := get(gateway, "/connections", queue=queue))["sockets"] and all_of_them
                    ),
                    timeout_s=40,
                )
                assert ([each["holding"] for each in shown["sockets"]], len(shown["leases"])) == ([1], 1)
                assert (shown["leases"][0]["worker"], shown["leases"][0]["jobs"][0]["id"]) == (
                    "cron",
                    held["job"]["id"],
                )
            worker.finish(message)
        assert end(two.gateway, queue, held, "complete") == 204
        assert two.client.post(f"/queues/{queue}/pause").status_code == 204
        assert get(one.gateway, f"/queues/{queue}")["pausedSince"] > 1_600_000_000_000
        assert one.client.post(f"/queues/{queue}/drain", json={}).json()["removed"] > 0
        assert one.client.post(f"/queues/{queue}/obliterate", json={"force": True}).status_code == 200


def test_targets_and_deliveries_are_read_where_one_slot_has_all_queues(
    nodes: list[ValkeyProcess], start_toril: StartToril, start_endpoint: StartEndpoint, tmp_path: Path
) -> None:
    endpoint = start_endpoint(lambda _: respond(410, "Gone"))
    file = configuration(tmp_path / "toril.yaml", {"billing": {"url": endpoint.url}}, ledger={"url": "none"})
    toril = start_toril(nodes[0], env=ENVIRONMENT | {"QUEUE_PREFIX": "{bull}"}, args=["--config", str(file)])
    door = Door(toril.gateway)
    job_id = door.enqueue("billing", body={"n": 1}, headers={"X-A": "1"})
    assert door.job(job_id, wait=30)["reason"] == "refused"
    assert get(toril.gateway, f"/jobs/{job_id}/envelope")["headers"]["X-A"] == "1"
    assert toril.client.get(f"/jobs/{job_id}/envelope/body").content == b'{"n":1}'
    dead = "/targets/billing/dead-letters"
    assert [one["job_id"] for one in get(toril.gateway, dead, reason="refused")["jobs"]] == [job_id]
    assert get(toril.gateway, dead, reason="attempts")["jobs"] == []
    rate = {"window_s": 600, "attempts": 1, "failed": 1, "failure_rate": 1.0}
    eventually(lambda: get(toril.gateway, "/targets/billing")["recent"] == rate, timeout_s=SOON_S)
    toril.client.post("/targets/billing/pause")
    assert get(toril.gateway, "/targets")["targets"][0]["paused_since"].endswith("Z")
