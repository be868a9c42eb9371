"""Pages of large jobs: an answer of many megabytes costs the server a few, and one that must be whole is bounded."""

import json
from collections.abc import Callable
from pathlib import Path

import redis

from tests.support.sockets import socket_to
from tests.support.toril import StartToril
from tests.support.valkey import ValkeyProcess

MB = 1_000_000


def peak_mb(pid: int) -> float:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmHWM"))


def fill(store: redis.Redis, queue: str, count: int, size: int) -> None:
    store.hset(f"bull:{queue}:meta", "version", "test")
    for number in range(count):
        store.hset(f"bull:{queue}:j{number}", mapping={"name": "n", "data": f'"{"x" * size}"', "opts": "{}"})
        store.lpush(f"bull:{queue}:wait", f"j{number}")


def test_a_page_of_large_jobs_costs_little_memory_and_delays_no_other_request(
    start_toril: StartToril, valkey: ValkeyProcess, store: redis.Redis, queue: str, new_queue: Callable[[], str]
) -> None:
    toril = start_toril(valkey)
    fill(store, queue, 50, 2 * MB)
    other = new_queue()
    toril.gateway.add_one(other)
    before = peak_mb(toril.pid)
    with toril.client.stream("GET", f"/queues/{queue}/jobs?length=100") as page:
        assert page.status_code == 200
        # The page is neither read by us nor by toril yet, and everything else is served.
        toril.gateway.add_one(other)
        leased = toril.client.post(f"/queues/{other}/lease", json={"count": 2}).json()["jobs"]
        assert len(leased) == 2
        extended = toril.client.post(
            f"/queues/{other}/jobs/{leased[0]['job']['id']}/extend",
            json={"lock_ms": 60_000},
            headers={"authorization": f"Bearer {leased[0]['token']}"},
        )
        assert extended.status_code in {200, 204}, extended.text
        jobs = json.loads(page.read())["jobs"]
    assert [one["id"] for one in jobs] == [f"j{number}" for number in reversed(range(50))]
    assert all(len(one["data"]) == 2 * MB for one in jobs)
    assert peak_mb(toril.pid) - before < 60


def test_a_socket_answer_that_is_too_long_is_refused(
    start_toril: StartToril, valkey: ValkeyProcess, store: redis.Redis, queue: str
) -> None:
    toril = start_toril(valkey)
    fill(store, queue, 20, 2 * MB)
    store.rpush(f"bull:{queue}:j0:logs", *["x" * MB] * 40)
    with socket_to(toril.url, f"/ws/queues/{queue}") as socket:
        refused = socket.command("getJobs", "waiting", 0, 19, True)
        assert refused["message"] == "The answer would be longer than 32 MB; ask for a smaller window"
        assert len(socket.command("getJobs", "waiting", 0, 4, True)["ok"]) == 5
        assert "fewer lines" in socket.command("getJobLogs", "j0", 0, -1)["message"]
        assert len(socket.command("getJobLogs", "j0", 0, 4)["ok"]["logs"]) == 5
    assert len(toril.client.get(f"/queues/{queue}/jobs/j0/logs?start=0&end=-1").json()["logs"]) == 40
