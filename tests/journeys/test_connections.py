"""Who works on queues over sockets and by leases, in a whole fleet, as `GET /connections` shows it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.journeys.test_pull_workers import end, lease
from tests.support.endpoint import Endpoint, StartEndpoint, hang
from tests.support.gateway import Gateway, job
from tests.support.sockets import socket_to
from tests.support.tokens import ask, token, write
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def pair(
    valkey: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TorilProcess, TorilProcess]]:
    """Two instances, with tokens for some queues."""
    folder = tmp_path_factory.mktemp("connections")
    tokens = [token("seer", ["workers:read"], ["conn-*"]), token("worker", ["jobs:lease"])]
    args = ["--config", str(write(folder / "toril.yaml", *tokens))]
    with (
        TorilProcess(valkey.url, folder / "one.log", args=args) as one,
        TorilProcess(valkey.url, folder / "two.log", args=args) as two,
    ):
        yield one, two
        assert [*one.complaints(), *two.complaints()] == []


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    return "conn-" + request.node.name[:40].replace("[", "-").replace("]", "")


def connections(gateway: Gateway, queue: str) -> dict[str, Any]:
    answer = gateway.http.get("/connections", params={"queue": queue})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_worker_on_a_socket_is_shown_with_its_jobs_by_every_instance(
    pair: tuple[TorilProcess, TorilProcess], queue: str
) -> None:
    one, two = pair
    ids = [added["id"] for added in one.gateway.add(queue, *(job() for _ in range(25)))]
    with socket_to(one.url, f"/ws/queues/{queue}/process/22", "worker-secret") as worker:
        messages = worker.jobs(22)
        (shown,) = connections(one.gateway, queue)["sockets"]
        assert (shown["queue"], shown["token"], shown["address"]) == (queue, "worker", "127.0.0.1")
        assert (shown["concurrency"], shown["holding"], shown["jobs"]) == (22, 22, ids[:20])
        assert shown["since"].endswith("Z")
        eventually(lambda: connections(two.gateway, queue)["sockets"] == [shown], timeout_s=30)
        for message in messages:
            worker.finish(message)
        worker.jobs(3)
        eventually(lambda: connections(one.gateway, queue)["sockets"][0]["jobs"] == ids[22:])
    eventually(lambda: connections(one.gateway, queue)["sockets"] == [])
    eventually(lambda: connections(two.gateway, queue)["sockets"] == [], timeout_s=30)


def test_connections_of_a_killed_process_are_not_shown_for_long(
    pair: tuple[TorilProcess, TorilProcess], valkey: ValkeyProcess, tmp_path: Path, queue: str, store: redis.Redis
) -> None:
    other = TorilProcess(valkey.url, tmp_path / "toril.log")
    other.start()
    with contextlib.ExitStack() as stack:
        stack.callback(other.close)
        stack.enter_context(socket_to(other.url, f"/ws/queues/{queue}/process/1"))
        eventually(lambda: connections(pair[0].gateway, queue)["sockets"] != [], timeout_s=30)
        other.kill()
        keys = [key for key in store.scan_iter("toril:sockets:bull:*") if 0 < store.pttl(key) <= 15_000]
        assert keys
        eventually(lambda: connections(pair[0].gateway, queue)["sockets"] == [], timeout_s=30)


def test_leases_are_shown_by_the_name_of_their_worker(pair: tuple[TorilProcess, TorilProcess], queue: str) -> None:
    one, two = pair
    one.gateway.add(queue, *(job() for _ in range(4)))
    named = lease(one.gateway, queue, count=2, worker="cron-1", lock_ms=60_000)
    (other,) = lease(two.gateway, queue)
    for gateway in (one.gateway, two.gateway):
        unnamed, cron = connections(gateway, queue)["leases"]
        assert (unnamed["worker"], unnamed["holding"]) == (None, 1)
        assert [one["id"] for one in unnamed["jobs"]] == [other["job"]["id"]]
        assert (cron["queue"], cron["worker"], cron["holding"]) == (queue, "cron-1", 2)
        assert {one["id"] for one in cron["jobs"]} == {one["job"]["id"] for one in named}
        assert all(one["since"] < one["until"] for one in cron["jobs"])
    assert queue in [one["queue"] for one in two.gateway.http.get("/connections").json()["leases"]]
    for held in (*named, other):
        assert end(one.gateway, queue, held, "complete") == 204
    assert connections(one.gateway, queue)["leases"] == []


def test_jobs_of_other_workers_are_no_leases(
    pair: tuple[TorilProcess, TorilProcess], start_endpoint: StartEndpoint, queue: str, store: redis.Redis
) -> None:
    gateway = pair[0].gateway
    endpoint: Endpoint = start_endpoint(lambda _: hang())
    gateway.register(queue, endpoint.url)
    gateway.add(queue, job())
    endpoint.wait_for_calls(1)
    # A job that another BullMQ program works on.
    store.lpush(f"bull:{queue}:active", "theirs")
    store.hset(f"bull:{queue}:theirs", mapping={"name": "n", "data": "{}", "opts": "{}"})
    store.set(f"bull:{queue}:theirs:lock", "8d2f8a7e-0f0e-4c55-9e3e-6f4ad3cf5d90")
    assert gateway.http.get(f"/queues/{queue}").json()["counts"]["active"] == 2
    assert connections(gateway, queue) == {"sockets": [], "leases": [], "left_out": 0}
    gateway.unregister(queue)


def test_a_token_sees_the_connections_of_its_queues_only(pair: tuple[TorilProcess, TorilProcess], queue: str) -> None:
    one = pair[0]
    for name in (queue, f"other-{queue}"):
        one.gateway.add(name, job())
        assert lease(one.gateway, name) != []
    with (
        socket_to(one.url, f"/ws/queues/{queue}/process/1"),
        socket_to(one.url, f"/ws/queues/other-{queue}/process/1"),
    ):
        all_of_them = one.gateway.http.get("/connections").json()
        for part in ("sockets", "leases"):
            assert {queue, f"other-{queue}"} <= {each["queue"] for each in all_of_them[part]}
        found = ask(one.url, "seer-secret", "GET", "/connections").json()
        for part in ("sockets", "leases"):
            assert queue in {each["queue"] for each in found[part]}
            assert all(each["queue"].startswith("conn-") for each in found[part])
    assert ask(one.url, "seer-secret", "GET", f"/connections?queue=other-{queue}").status_code == 403
    assert ask(one.url, "worker-secret", "GET", "/connections").status_code == 403


def test_a_queue_with_a_registered_worker_says_which_connection_is_torils_own(
    gateway: Gateway, endpoint: Endpoint, queue: str
) -> None:
    gateway.register(queue, endpoint.url)
    gateway.finished(queue, gateway.add_one(queue))
    (own,) = eventually(lambda: gateway.http.get(f"/queues/{queue}").json()["workers"])
    assert (own["name"], own["presence"]) == (queue, "toril")
    gateway.unregister(queue)
