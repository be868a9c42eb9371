"""What groups promise, at full size, with instances that are killed meanwhile.

    python -m benchmarks.groups fairness     10,000 jobs of A wait, B adds one a second: B's is among the next two
    python -m benchmarks.groups weights      weights 1, 2, 4 over 7,000 jobs; splitting into 100 ids gains nothing
    python -m benchmarks.groups limits       20,000 jobs, concurrency 1, four instances, push, socket and lease, kill -9
    python -m benchmarks.groups rate         10 starts a second, retries included, over two instances
    python -m benchmarks.groups changes      how long a change of limits takes to start what waits
    python -m benchmarks.groups idle         how long workers idle while one group is at its limit
    python -m benchmarks.groups leaks        100,000 jobs over 10,000 groups with kills: nothing is left in Redis

`--size 0.1` makes any of them smaller. Each prints what it has seen, and exits with 1 where the promise was not kept.
`benchmarks.group_cost` measures what groups cost. The test suite has smaller forms (`tests/journeys/test_groups*.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import redis
from tests.journeys.test_groups_killed import LOCK_S, AtOnce, leasing
from tests.support.endpoint import Answer, Call, Endpoint, reply_json
from tests.support.gateway import job
from tests.support.sockets import socket_to
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from websockets.exceptions import WebSocketException

from benchmarks.kills import killing, told
from benchmarks.processes import exit_on_sigterm

_PATIENCE_S = 600.0
_QUEUE = "groups"
_BULK = 500
_STANDS_STILL_S = 60.0


class Place:
    """A Valkey, an endpoint, instances, and which promises were not kept."""

    def __init__(self, folder: Path, stack: ExitStack, size: float) -> None:
        self.size = size
        self.wrong: list[str] = []
        self._folder = folder
        self._stack = stack
        self.valkey = stack.enter_context(ValkeyProcess(folder / "valkey"))
        self.store: redis.Redis = self.valkey.client()
        self.endpoint = stack.enter_context(Endpoint())
        self.fleet: list[TorilProcess] = []

    def scaled(self, count: int) -> int:
        """Return a number at the size that was asked for."""
        return max(1, round(count * self.size))

    def start(self, instances: int, **environment: str) -> TorilProcess:
        """Start so many instances; return the first one."""
        for number in range(instances):
            log = self._folder / f"{number}.log"
            self.fleet.append(self._stack.enter_context(TorilProcess(self.valkey.url, log, env=environment)))
        return self.fleet[0]

    def promise(self, kept: bool, what: str) -> None:
        """Note a promise that was not kept."""
        print(f"{'kept' if kept else 'BROKEN':<8}{what}", flush=True)
        if not kept:
            self.wrong.append(what)

    def register(self, **opts: Any) -> None:
        """Register the endpoint for the queue."""
        self.fleet[0].gateway.register(_QUEUE, self.endpoint.url, **opts)

    def add(self, groups: list[str]) -> None:
        """Add a job of each of these groups."""
        for first in range(0, len(groups), _BULK):
            self.fleet[0].gateway.add(_QUEUE, *(job(group={"id": name}) for name in groups[first : first + _BULK]))

    def ended(self, count: int) -> None:
        """Wait until so many jobs have ended. Without any progress for a while, say what is there, and give up."""
        done, moved_s = 0, time.monotonic()
        while done < count:
            time.sleep(0.1)
            latest = sum(int(self.store.zcard(f"bull:{_QUEUE}:{state}")) for state in ("completed", "failed"))
            if latest != done:
                done, moved_s = latest, time.monotonic()
            elif time.monotonic() - moved_s > _STANDS_STILL_S:
                print(f"        {done} of {count} have ended; {self.fleet[0].gateway.counts(_QUEUE)}")
                for key in self.left()[:20]:
                    kind = self.store.type(key)
                    shown = {
                        "zset": lambda key: self.store.zrange(key, 0, 4, withscores=True),
                        "set": self.store.smembers,
                    }
                    print(f"        {key} {shown.get(str(kind), self.store.hgetall)(key)}")
                raise AssertionError(f"nothing has ended for {_STANDS_STILL_S:g} s")

    def left(self) -> list[Any]:
        """Return the keys that groups have left in Redis."""
        return list(self.store.scan_iter(f"bull:{_QUEUE}:toril:groups*", count=1000))


def _group(call: Call) -> str:
    return str(call.job["opts"]["group"]["id"])


def _after(seconds: float) -> Callable[[Call], Any]:
    async def behave(_: Call) -> Answer:
        await asyncio.sleep(seconds)
        return reply_json("done")

    return behave


def fairness(place: Place) -> None:
    """A group with many waiting jobs, and another one that adds one from time to time."""
    gateway = place.start(1).gateway
    place.endpoint.behaviour = _after(0.004)
    many = place.scaled(10_000)
    place.add(["A"] * many)
    place.register()
    passed: list[int] = []
    place.endpoint.wait_for_calls(1)
    while len(place.endpoint.calls) < many * 0.95:
        gateway.add(_QUEUE, job(group={"id": "B"}))
        added = time.time()
        calls = place.endpoint.calls

        def started(wanted: int = len(passed) + 1) -> bool:
            return sum(_group(call) == "B" for call in place.endpoint.calls[-400:]) > 0 and (
                sum(_group(call) == "B" for call in place.endpoint.calls) >= wanted
            )

        eventually(started, timeout_s=60, what="B's job to start")
        calls = place.endpoint.calls
        at = max(number for number, call in enumerate(calls) if _group(call) == "B")
        passed.append(sum(call.at > added for call in calls[:at]))
        time.sleep(max(0.0, added + 1.0 * min(1.0, place.size * 10) - time.time()))
    place.ended(many)
    print(f"        {len(passed)} jobs of B; starts of A between an add and its start: {dict(Counter(passed))}")
    place.promise(max(passed) <= 2, "each job of B was among the next two that started, and the one under way")


def weights(place: Place) -> None:
    """Three groups with weights, and a tenant with a hundred ids beside one with one."""
    gateway = place.start(1).gateway
    place.endpoint.behaviour = _after(0.001)
    most = place.scaled(7_000)
    shares = {"w1": 1, "w2": 2, "w4": 4}
    for name, weight in shares.items():
        gateway.http.put(f"/queues/{_QUEUE}/groups/{name}", json={"weight": weight}).raise_for_status()
    place.add([name for _ in range(most) for name in shares])
    place.register(concurrency=10)
    found = Counter(_group(call) for call in place.endpoint.wait_for_calls(most, timeout_s=_PATIENCE_S)[:most])
    gateway.unregister(_QUEUE)
    off = max(abs(found[name] / most * 7 / weight - 1) for name, weight in shares.items())
    place.promise(off <= 0.05, f"1:2:4 over {most} starts: {dict(found)}, off by {off:.1%}")
    gateway.http.post(f"/queues/{_QUEUE}/obliterate", json={"force": True}, timeout=120)
    half = most // 2
    place.add([name for number in range(most) for name in (f"t/{number % 100}", "u")])
    before = len(place.endpoint.calls)
    place.register(concurrency=10)
    calls = place.endpoint.wait_for_calls(before + most, timeout_s=_PATIENCE_S)[before : before + most]
    split = sum(_group(call).startswith("t/") for call in calls)
    ids = Counter(_group(call) for call in calls if _group(call).startswith("t/"))
    least, greatest = min(ids.values()), max(ids.values())
    place.promise(abs(split / half - 1) <= 0.05, f"a hundred ids of t got {split} of {most} starts, the id u the rest")
    place.promise(greatest - least <= 1, f"each id of t got {least} to {greatest}")
    gateway.unregister(_QUEUE)


def limits(place: Place) -> None:
    """Concurrency 1 over four instances and all kinds of workers; each instance is killed in its turn."""
    place.start(4, TORIL_LOCK=f"{LOCK_S}s")
    gateway, seen, over = place.fleet[0].gateway, AtOnce(), threading.Event()
    names = [f"g{number}" for number in range(20)]
    count = place.scaled(20_000)

    async def behave(call: Call) -> Answer:
        group, job_id = _group(call), call.job["id"]
        seen.begin(group, job_id)
        await asyncio.sleep(0.004)
        seen.end(group, job_id)
        return reply_json("done")

    place.endpoint.behaviour = behave
    # Fewer slots for pushes than there are groups, so that the other kinds of workers get some.
    place.register(concurrency=3, group={"concurrency": 1}, maxStalledCount=10_000)
    workers = [threading.Thread(target=leasing, args=(one, _QUEUE, seen, over)) for one in place.fleet[:2]]
    workers += [threading.Thread(target=_on_a_socket, args=(one, seen, over)) for one in place.fleet[1:3]]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    place.add([names[number % len(names)] for number in range(count)])
    try:
        with killing(place.fleet, place.fleet, 2.0) as kills:
            place.ended(count)
    finally:
        over.set()
        for worker in workers:
            worker.join(30)
    again = sum(times - 1 for times in seen.begun.values())
    print(f"        {count} jobs in {time.monotonic() - began:.0f} s, {told(kills)}, {again} attempts made again")
    pushed = len({call.job["id"] for call in place.endpoint.calls})
    print(f"        {pushed} were pushed, {count - pushed} went to sockets and leases")
    most = sorted(seen.most.values())
    place.promise(most == [1] * len(names), f"the most jobs at once of {len(most)} groups: {most[0]} to {most[-1]}")
    _promise_nothing_left(place, gateway)


def _on_a_socket(toril: TorilProcess, seen: AtOnce, over: threading.Event) -> None:
    """A socket worker that connects again when its instance was killed."""
    while not over.is_set():
        try:
            with socket_to(toril.url, f"/ws/queues/{_QUEUE}/process/2?maxStalledCount=1000") as worker:
                while not over.is_set():
                    try:
                        message = worker.receive(0.2)
                    except TimeoutError:
                        continue
                    held = message["data"]["payload"]
                    seen.begin(held["opts"]["group"]["id"], held["id"])
                    seen.end(held["opts"]["group"]["id"], held["id"])
                    worker.finish(message)
        except (OSError, WebSocketException, KeyError):
            over.wait(0.2)


def _promise_nothing_left(place: Place, gateway: Any) -> None:
    """Wait until nothing waits, and look for keys of groups."""

    def clean() -> bool:
        return place.left() == []

    with suppress(AssertionError):
        eventually(clean, timeout_s=60, what="nothing of a group to be left")
    place.promise(clean(), f"keys of groups that are left: {len(place.left())} {place.left()[:5]}")
    counts = gateway.counts(_QUEUE)
    reasons = Counter(
        place.store.hget(f"bull:{_QUEUE}:{job_id}", "failedReason")
        for job_id in place.store.zrange(f"bull:{_QUEUE}:failed", 0, -1)
    )
    print(f"        failed: {dict(reasons)}")
    open_jobs = {state: number for state, number in counts.items() if number and state not in {"completed", "failed"}}
    place.promise(not open_jobs, f"jobs that have not ended: {open_jobs}")


def rate(place: Place) -> None:
    """Ten starts a second of one group, some of which fail and are tried again."""
    place.start(2)
    failed: set[str] = set()

    def behave(call: Call) -> Answer:
        job_id = call.job["id"]
        if int(job_id) % 5 == 0 and job_id not in failed:
            failed.add(job_id)
            return reply_json("no", status=500)
        return reply_json("done")

    place.endpoint.behaviour = behave
    count = place.scaled(600)
    place.register(concurrency=20, group={"limit": {"max": 10, "duration": 1000}})
    jobs = [job(group={"id": "a"}, attempts=3) for _ in range(count)]
    for first in range(0, count, _BULK):
        place.fleet[0].gateway.add(_QUEUE, *jobs[first : first + _BULK])
    place.ended(count)
    started = _starts(place)
    print(f"        {len(started)} starts, {len(failed)} tried again")
    place.promise(
        len(started) == len(place.endpoint.calls), f"{len(place.endpoint.calls)} arrivals, one for each start"
    )
    inside = _even_windows(started, "starts by Redis' clock", place)
    place.promise(inside == 1.0, f"{inside:.1%} of all windows have 10 ± 1 starts by Redis' clock")
    _even_windows(sorted(call.at for call in place.endpoint.calls), "arrivals at the endpoint", place)


def _starts(place: Place) -> list[float]:
    """Return when jobs became active, by the clock of Redis, which gives each event its id."""
    events = place.store.xrange(f"bull:{_QUEUE}:events")
    return [int(name.partition("-")[0]) / 1000 for name, fields in events if fields["event"] == "active"]


def _even_windows(times: list[float], what: str, place: Place) -> float:
    """Return the share of windows of one second with 9 to 11 of these times, from the third second on.

    The first ten start at once, so those before are not even.
    """
    even = [at for at in times if at > times[0] + 2]
    windows = [sum(at <= other < at + 1 for other in even) for at in even if at + 1 < even[-1]]
    found = dict(sorted(Counter(windows).items()))
    gaps = sorted(after - before for before, after in pairwise(even))
    print(f"        {what}: by window of 1 s: {found}, {gaps[0] * 1000:.0f} to {gaps[-1] * 1000:.0f} ms apart")
    whole = (len(even) - 1) / (even[-1] - even[0])
    place.promise(abs(whole - 10) < 0.2, f"{whole:.2f} a second over {even[-1] - even[0]:.0f} s ({what})")
    return sum(9 <= number <= 11 for number in windows) / len(windows)


def changes(place: Place) -> None:
    """A group at its limit, whose limits are changed."""
    gateway = place.start(1).gateway
    count = place.scaled(100)
    gateway.http.post(f"/queues/{_QUEUE}/groups/a/pause").raise_for_status()
    place.register(concurrency=4)
    place.add(["a"] * count)
    took_ms = []
    for number in range(count):
        # Each rate is another one, so it starts afresh, and lets one job start.
        limit = {"max": 1, "duration": 3_600_000 + number}
        began = time.time()
        gateway.http.put(f"/queues/{_QUEUE}/groups/a", json={"limit": limit, "paused": False}).raise_for_status()
        took_ms.append((place.endpoint.wait_for_calls(number + 1)[number].at - began) * 1000)
    took_ms.sort()
    late = took_ms[int(count * 0.99) - 1]
    told = f"median {median(took_ms):.1f} ms, p99 {late:.1f} ms, most {took_ms[-1]:.1f} ms"
    place.promise(late < 100, f"{count} changes, until the job was at the endpoint: {told}")


def idle(place: Place) -> None:
    """How much of the workers' time is idle, with a group at its limit beside one with work, and without."""
    gateway = place.start(1).gateway
    slots, lasts_s = 8, 1.0
    rounds = place.scaled(30)
    place.endpoint.behaviour = _after(lasts_s)
    shares = {}
    for name in ("alone", "held"):
        gateway.http.post(f"/queues/{_QUEUE}/obliterate", json={"force": True})
        gateway.http.put(f"/queues/{_QUEUE}/groups/full", json={"concurrency": 1}).raise_for_status()
        held = rounds if name == "held" else 0
        place.add(["full"] * (held * 2) + ["free"] * (slots * rounds))
        before = len(place.endpoint.calls)
        place.register(concurrency=slots)
        wanted = (slots - 2) * rounds
        calls = place.endpoint.wait_for_calls(before + wanted, timeout_s=_PATIENCE_S)[before : before + wanted]
        gateway.unregister(_QUEUE)
        # From the first wave on, each start follows an end at once: each slot starts one job each second.
        first, last = calls[slots - 1].at, calls[-1].at
        worked = sum(min(call.at + lasts_s, last) - max(call.at, first) for call in calls if call.at + lasts_s > first)
        shares[name] = 1 - worked / ((last - first) * slots)
        full = sum(_group(call) == "full" for call in calls)
        took_s = last - first
        print(f"        {name}: idle {shares[name]:.2%} of {slots} slots for {took_s:.0f} s; {full} of the full group")
        eventually(lambda: gateway.counts(_QUEUE)["active"] == 0, timeout_s=60, what="the last jobs to end")
    more = shares["held"] - shares["alone"]
    place.promise(more < 0.01, f"idle more than alone: {more:+.2%}")
    place.promise(shares["held"] < 0.01, f"idle in all: {shares['held']:.2%}")


def leaks(place: Place) -> None:
    """Many jobs over many groups, with kills."""
    place.start(3, TORIL_LOCK=f"{LOCK_S}s")
    count, groups = place.scaled(100_000), place.scaled(10_000)
    default = {"concurrency": 1, "limit": {"max": 50, "duration": 1000}}
    place.register(concurrency=20, group=default, maxStalledCount=10_000)
    began = time.monotonic()
    with killing(place.fleet, place.fleet[1:], 4.0) as kills:
        place.add([f"tenant-{number % groups}" for number in range(count)])
        place.ended(count)
    print(f"        {count} jobs over {groups} groups in {time.monotonic() - began:.0f} s, {told(kills)}")
    _promise_nothing_left(place, place.fleet[0].gateway)


_PROOFS = {
    "fairness": fairness, "weights": weights, "limits": limits, "rate": rate, "changes": changes, "idle": idle,
    "leaks": leaks,
}  # fmt: skip


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proof", choices=list(_PROOFS))
    parser.add_argument("--size", type=float, default=1.0)
    options = parser.parse_args()
    exit_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="toril-groups-") as folder, ExitStack() as stack:
        place = Place(Path(folder), stack, options.size)
        _PROOFS[options.proof](place)
    print("FAILED" if place.wrong else "passed")
    return 1 if place.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
