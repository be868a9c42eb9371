"""Entries of toril's lists in Redis that cannot be read are left out, and the log says so."""

from collections.abc import Iterator

import pytest

from tests.support.deliveries import LATER, Door, configuration
from tests.support.endpoint import Endpoint
from tests.support.sockets import socket_to
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

GARBAGE = b"\xff{"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    with ValkeyProcess(tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture(scope="module")
def toril(store: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorilProcess]:
    folder = tmp_path_factory.mktemp("toril")
    file = configuration(folder / "toril.yaml", {"shop": "http://127.0.0.1:1"}, **{"ledger.url": "none"})
    with TorilProcess(store.url, folder / "toril.log", args=("--config", str(file))) as server:
        yield server
    assert server.complaints() == []


def is_said(toril: TorilProcess, key: str) -> bool:
    return any("redis.entries_unreadable" in line and f'"{key}"' in line for line in toril.log().splitlines())


def test_lines_of_the_audit_log(toril: TorilProcess, store: ValkeyProcess) -> None:
    toril.client.post("/queues/audited/pause")
    store.client().lpush("toril:audit:bull", GARBAGE, '{"at":"2026-01-01T00:00:00Z"}', "[]")
    lines = toril.client.get("/audit").json()["lines"]
    assert "POST /queues/{queue}/pause" in {line["action"] for line in lines}
    assert is_said(toril, "toril:audit:bull")


def test_attempts_of_a_worker(toril: TorilProcess, store: ValkeyProcess, endpoint: Endpoint) -> None:
    toril.gateway.register("attempted", endpoint.url)
    toril.gateway.finished("attempted", toril.gateway.add_one("attempted"))
    eventually(lambda: len(toril.client.get("/workers/attempted").json()["recent"]) == 1)
    store.client().lpush("toril:recent:bull:attempted", GARBAGE)
    assert len(toril.client.get("/workers/attempted").json()["recent"]) == 1
    assert is_said(toril, "toril:recent:bull:attempted")


def test_workers_on_sockets_and_announcements_of_instances(toril: TorilProcess, store: ValkeyProcess) -> None:
    client = store.client()
    with socket_to(toril.url, "/ws/queues/connected/process/1"):
        eventually(lambda: client.zcard("toril:sockets:bull") == 1)
        seconds, _ = client.time()
        client.zadd("toril:sockets:bull", {"other": seconds * 1000})
        client.set("toril:sockets:bull:other", GARBAGE)
        sockets = toril.client.get("/connections").json()["sockets"]
        assert [one["queue"] for one in sockets] == ["connected"]
    assert is_said(toril, "toril:sockets:bull:other")
    client.xadd("bull:toril:cancelled", {"nothing": "known"})
    eventually(lambda: is_said(toril, "bull:toril:cancelled"))
    assert toril.client.get("/ready").status_code == 200


def test_the_history_of_a_delivery_in_redis(toril: TorilProcess, store: ValkeyProcess) -> None:
    door = Door(toril.gateway)
    job_id = door.enqueue("shop", **LATER)
    key = f"bull:{{toril}}:ledger:t:{job_id}"
    store.client().rpush(key, GARBAGE)
    assert [step["to"] for step in door.job(job_id)["transitions"]] == ["queued"]
    assert is_said(toril, key)
