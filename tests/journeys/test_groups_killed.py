"""Groups in a fleet: limits count over all instances and kinds of workers, while instances are killed."""

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis

from tests.support.endpoint import Answer, Call, Endpoint, reply_json
from tests.support.gateway import TOKEN, job
from tests.support.sockets import socket_to
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

LOCK_S = 1.0


class AtOnce:
    """How many jobs of each group run at once: pushed, on sockets and leased. Those of a killed instance do not count.

    A job that is seen again has begun anew, so what was seen of it before is over.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, dict[str, float]] = defaultdict(dict)
        self.most: Counter[str] = Counter()
        self.begun: Counter[str] = Counter()

    def begin(self, group: str, job_id: str) -> None:
        """A job begins. Those that began longer ago than a lock lives have lost it, and count no more."""
        now = time.monotonic()
        with self._lock:
            running = self._running[group]
            running[job_id] = now
            self.begun[job_id] += 1
            live = [each for each, at in running.items() if now - at < LOCK_S * 0.8]
            self.most[group] = max(self.most[group], len(live))

    def end(self, group: str, job_id: str) -> None:
        """A job ends."""
        with self._lock:
            self._running[group].pop(job_id, None)


def leasing(toril: TorilProcess, queue: str, seen: AtOnce, over: threading.Event) -> None:
    """A pull worker that goes on while its instance is away."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=toril.url, headers=headers, timeout=10, trust_env=False) as http:
        while not over.is_set():
            try:
                jobs = http.post(f"/queues/{queue}/lease", json={"count": 2, "wait_ms": 200}).json()["jobs"]
                for held in jobs:
                    group, job_id = held["job"]["opts"]["group"]["id"], held["job"]["id"]
                    seen.begin(group, job_id)
                items = [{"id": each["job"]["id"], "token": each["token"], "action": "complete"} for each in jobs]
                if items:
                    for held in jobs:  # once it is settled, the next one may begin
                        seen.end(held["job"]["opts"]["group"]["id"], held["job"]["id"])
                    http.post(f"/queues/{queue}/settle", json={"jobs": items})
            except (httpx.HTTPError, KeyError, ValueError):
                over.wait(0.05)


@pytest.mark.promise
def test_one_job_of_a_group_runs_at_once_in_a_fleet_that_is_killed_and_nothing_leaks(
    start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
) -> None:
    valkey, queue, seen = start_valkey(), "killed", AtOnce()
    options: dict[str, Any] = {"env": {"TORIL_LOCK": f"{LOCK_S}s"}}
    fleet = [start_toril(valkey, **options) for _ in range(3)]

    async def behave(call: Call) -> Answer:
        group, job_id = call.job["opts"]["group"]["id"], call.job["id"]
        seen.begin(group, job_id)
        await asyncio.sleep(0.004)  # the work
        seen.end(group, job_id)
        return reply_json("done")

    groups = [f"g{number}" for number in range(5)]
    with Endpoint(behave) as endpoint:
        gateway = fleet[0].gateway
        gateway.register(queue, endpoint.url, concurrency=8, group={"concurrency": 1}, maxStalledCount=100)
        over = threading.Event()
        puller = threading.Thread(target=leasing, args=(fleet[0], queue, seen, over))
        puller.start()
        try:
            for start in range(0, 1500, 100):
                gateway.add(queue, *(job(group={"id": groups[n % 5]}) for n in range(start, start + 100)))
                if start in {300, 700}:
                    fleet[2].kill()
                    fleet[2].start()
            eventually(lambda: gateway.counts(queue)["completed"] == 1500, timeout_s=60, what="all jobs have completed")
        finally:
            over.set()
            puller.join(20)
        assert set(seen.most.values()) == {1}, seen.most
        assert set(seen.most) == set(groups)
        store = valkey.client()
        eventually(lambda: left(store, queue) == [], timeout_s=30, what="nothing of a group is left")
        store.close()


def left(store: redis.Redis, queue: str) -> list[Any]:
    """The keys that groups have left in Redis."""
    return [key for key in store.scan_iter(f"bull:{queue}:toril:groups*", count=1000) if not str(key).endswith(":rate")]


def test_jobs_on_sockets_hold_slots_too(toril: TorilProcess, queue: str) -> None:
    gateway = toril.gateway
    gateway.http.put(f"/queues/{queue}/groups/a", json={"concurrency": 1}).raise_for_status()
    gateway.add(queue, job(group={"id": "a"}), job(group={"id": "a"}), job(group={"id": "b"}))
    with socket_to(toril.url, f"/ws/queues/{queue}/process/5") as worker:
        first = worker.jobs(2)
        assert worker.is_quiet()
        for message in first:
            worker.finish(message)
        (last,) = worker.jobs(1)
        worker.finish(last)
    gateway.wait_for_counts(queue, completed=3)


def test_a_starts_rate_holds_over_several_instances(
    start_valkey: Callable[..., ValkeyProcess], start_toril: Callable[..., TorilProcess]
) -> None:
    valkey, queue = start_valkey(), "rated"
    fleet = [start_toril(valkey) for _ in range(2)]
    with Endpoint() as endpoint:
        endpoint.behaviour = lambda call: reply_json("no", status=500 if int(call.job["id"]) % 4 == 0 else 200)
        gateway = fleet[0].gateway
        gateway.register(queue, endpoint.url, concurrency=10, group={"limit": {"max": 10, "duration": 1000}})
        gateway.add(queue, *(job(group={"id": "a"}, attempts=2) for _ in range(40)))
        endpoint.wait_for_calls(50, timeout_s=30)
    # Redis gives each event its time as its id.
    events = valkey.client().xrange(f"bull:{queue}:events")
    times = [int(name.partition("-")[0]) for name, fields in events if fields["event"] == "active"]
    assert len(times) == 50, "retries count too"
    # At most `max`, and what comes due meanwhile. The ids are whole milliseconds.
    for first in range(len(times)):
        for last in range(first + 10, len(times)):
            assert last - first + 1 <= 10 + (times[last] - times[first] + 1) / 100
    assert times[-1] - times[0] >= 3999
