"""What an acknowledgement means: memory, disk or replicas; what cannot be confirmed is never acknowledged."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.gateway import Gateway
from tests.support.proxq import Backend, StartProxq
from tests.support.redis62 import redis_6_2
from tests.support.sentinel import Replicated
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import APPEND_ALWAYS, StartValkey, ValkeyProcess
from tests.support.waiting import eventually

JOB = {"name": "n", "data": 1}


def env(acknowledge: str, timeout: str = "5s") -> dict[str, str]:
    return {"TORIL_ACKNOWLEDGE": acknowledge, "TORIL_ACKNOWLEDGE_TIMEOUT": timeout}


def status(gateway: Gateway, queue: str = "held") -> int:
    return gateway.http.post(f"/queues/{queue}/jobs", json=[JOB]).status_code


def waits(server: ValkeyProcess) -> tuple[int, int]:
    """How often the server was told to wait for disks and replicas."""
    stats = server.client().info("commandstats")
    return tuple(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("waitaof", "wait"))  # type: ignore[return-value]


@pytest.fixture
def pair(start_valkey: StartValkey) -> tuple[ValkeyProcess, ValkeyProcess]:
    """A master and its one replica."""
    master = start_valkey(config={"repl-diskless-sync-delay": "0"})
    replica = start_valkey(config={"replicaof": f"127.0.0.1 {master.port}"})
    with master.client() as client:
        eventually(lambda: client.set("written", 1) and client.wait(1, 500) == 1, what="the replica to confirm")
    return master, replica


def test_memory_waits_for_nothing(start_toril: StartToril, start_valkey: StartValkey) -> None:
    server = start_valkey(config=APPEND_ALWAYS)
    toril = start_toril(server)
    assert status(toril.gateway) == 200
    assert waits(server) == (0, 0)
    assert all(one["name"] != "toril:confirming" for one in server.client().client_list())


def test_an_add_is_acknowledged_when_it_is_on_disk(start_toril: StartToril, start_valkey: StartValkey) -> None:
    server = start_valkey(config=APPEND_ALWAYS)
    toril = start_toril(server, env=env("fsync"))
    before, _ = waits(server)
    with ThreadPoolExecutor(32) as threads:
        assert set(threads.map(lambda _: status(toril.gateway), range(200))) == {200}
    after, _ = waits(server)
    # They share waits: those that ask while one is under way share the next.
    assert 0 < after - before < 200
    flow = {"name": "parent", "queueName": "held", "children": [{"name": "child", "queueName": "held"}]}
    answer = toril.client.post("/flows", json=flow)
    assert answer.status_code == 200, answer.text
    assert waits(server)[0] > after


@pytest.mark.parametrize("server", ["Valkey without AOF", "Redis 6.2"])
def test_what_the_server_cannot_confirm_is_never_acknowledged(
    start_toril: StartToril, start_valkey: StartValkey, server: str
) -> None:
    store = start_valkey(binary=redis_6_2()) if server == "Redis 6.2" else start_valkey()
    said = "unknown command" if server == "Redis 6.2" else "appendonly is disabled"
    toril = start_toril(store, wait_for="/health", env=env("fsync"))
    eventually(
        lambda: "acknowledge: fsync is not possible" in (text := toril.client.get("/ready").text) and said in text
    )
    answer = toril.client.post("/queues/held/jobs", json=[JOB])
    assert (answer.status_code, answer.headers["toril-code"]) == (503, "unconfirmed")
    assert answer.headers["retry-after"] == "1"
    assert answer.text.startswith("It may have been written, but that was not confirmed: ERR ")
    assert store.client().llen("bull:held:wait") == 1


def test_an_add_is_acknowledged_when_replicas_have_it(
    start_toril: StartToril, pair: tuple[ValkeyProcess, ValkeyProcess]
) -> None:
    master, replica = pair
    toril = start_toril(master, env=env("replicas:1", "500ms"))
    assert status(toril.gateway) == 200
    assert waits(master)[1] > 0
    replica.pause()
    assert status(toril.gateway) == 503
    replica.resume()
    eventually(lambda: status(toril.gateway) == 200)


def test_one_replica_cannot_stand_for_two(start_toril: StartToril, pair: tuple[ValkeyProcess, ValkeyProcess]) -> None:
    toril = start_toril(pair[0], wait_for="/health", env=env("replicas:2", "300ms"))
    fault = "acknowledge: replicas:2 is not possible: 1 of 2 replicas have it in time"
    eventually(lambda: toril.client.get("/ready").json().get("reasons") == [fault])
    assert status(toril.gateway) == 503


def test_settlements_and_proxied_requests_are_confirmed_too(
    start_toril: StartToril, start_proxq: StartProxq, pair: tuple[ValkeyProcess, ValkeyProcess], backend: Backend
) -> None:
    master, replica = pair
    toril = start_toril(master, env=env("replicas:1", "300ms"))
    proxq = start_proxq(
        master, {"queue": "proxied", "upstreams": [{"prefix": "/", "url": backend.url}]}, env=env("replicas:1", "300ms")
    )
    job_id = toril.gateway.add_one("leased")
    (lease,) = toril.client.post("/queues/leased/lease", json={"wait_ms": 5000}).json()["jobs"]
    assert proxq.send("GET", "/api/echo").status == 202
    replica.pause()
    settled = toril.client.post(
        f"/queues/leased/jobs/{job_id}/complete",
        json={"returnvalue": {"done": True}},
        headers={"authorization": f"Bearer {lease['token']}"},
    )
    assert (settled.status_code, settled.json()["code"]) == (503, "unconfirmed"), settled.text
    assert master.client().hexists(f"bull:leased:{job_id}", "finishedOn")
    refused = proxq.send("GET", "/api/echo")
    assert refused.status == 503
    assert refused.json["message"].startswith("It may have been written, but that was not confirmed: 0 of 1 replicas")


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Replicated]:
    with Replicated(tmp_path / "replicated") as made:
        yield made


@pytest.mark.promise
@pytest.mark.parametrize(("acknowledge", "answered"), [("memory", 200), ("replicas:1", 503)])
def test_a_failover_loses_nothing_that_was_acknowledged_by_replicas(
    replicated: Replicated, tmp_path: Path, acknowledge: str, answered: int
) -> None:
    old = replicated.master
    with TorilProcess(replicated.url, tmp_path / "toril.log", env=env(acknowledge, "300ms")) as toril:
        kept = [toril.gateway.add_one("kept") for _ in range(20)]
        eventually(lambda: all(one.client().llen("bull:kept:wait") == 20 for one in replicated.servers))
        others = [server for server in replicated.servers if server is not old]
        for server in others:
            server.pause()
        # What it sends them from now on they would still read.
        old.client().execute_command("CLIENT", "KILL", "TYPE", "replica")
        # The master alone has this one when it dies: with `memory` it was acknowledged, and is lost.
        assert status(toril.gateway, "late") == answered
        old.kill()
        for server in others:
            server.resume()
        new = replicated.until_master_is_not(old)
        assert new.client().llen("bull:late:wait") == 0
        eventually(lambda: status(toril.gateway, "later") == 200, timeout_s=30)
        assert set(kept) <= set(new.client().lrange("bull:kept:wait", 0, -1))
