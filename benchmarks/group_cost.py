"""What groups cost a queue: jobs pushed to one registered worker, with no groups and with few and many, in turns.

    python -m benchmarks.group_cost --rounds 5 --measured 20000

Each round adds jobs to a new queue for each number of groups, as many as there are groups at least, one after the
other over the groups. Then a worker is registered, and the first `--measured` jobs are looked at: arrivals a second at
the endpoint, and the CPU of the server and of Redis for a job. Each is compared with a queue without groups that has as
many jobs, since more of them take longer to find in memory. Ratios are taken in each round before the median, since the
machine may be busy. Goals: 0.6 of the rate without groups, and the numbers of groups within 20 % of each other.

`benchmarks.interleaved --scenario push --scenario add` measures a queue without groups on two versions.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from contextlib import ExitStack
from statistics import median

import msgspec
import redis
from msgspec import Struct

from benchmarks import payload
from benchmarks.endpoint import Endpoint
from benchmarks.interleaved import cpu_us
from benchmarks.processes import exit_on_sigterm
from benchmarks.servers import TORIL, start_target, start_valkey
from benchmarks.target import Target, TargetError

GROUPS = (10, 1_000, 100_000)
GOAL, EVEN = 0.6, 0.2
_CONCURRENCY = 100
_STANDS_STILL_S = 30.0
_BULK = 500


class Cost(Struct, frozen=True):
    """Jobs that arrived a second, and the microseconds of CPU that one took."""

    per_s: float
    server_us: float
    store_us: float


class Pushes:
    """Pushes the jobs of one queue after the other."""

    def __init__(self, target: Target, store: redis.Redis, endpoint: Endpoint, measured: int) -> None:
        self._target = target
        self._store = store
        self._store_pid = int(store.info("server")["process_id"])
        self._endpoint = endpoint
        self._measured = measured
        self._number = itertools.count()

    def jobs(self, groups: int) -> int:
        """Return how many jobs a queue with so many groups gets."""
        return max(groups, self._measured + _BULK)

    def cost(self, groups: int, jobs: int) -> Cost:
        """Measure one queue with so many groups, 0 for none, and jobs."""
        queue = f"cost-{groups}-{next(self._number)}"
        with self._target.wire() as wire:
            for first in range(0, jobs, _BULK):
                wire.add(queue, msgspec.json.encode([_job(number, groups) for number in range(first, first + _BULK)]))
        self._endpoint.reset()
        pid = self._target.pid
        if pid is None:
            raise TargetError("the CPU of a server that was not started here cannot be read")
        before = cpu_us(pid), cpu_us(self._store_pid)
        with self._target.wire() as wire:
            wire.register(queue, self._endpoint.url(queue), _CONCURRENCY)
            done, moved_s = 0, time.monotonic()
            while (latest := self._endpoint.stats()).count < self._measured:
                if latest.count != done:
                    done, moved_s = latest.count, time.monotonic()
                elif time.monotonic() - moved_s > _STANDS_STILL_S:
                    raise TargetError(f"{queue}: only {done} of {self._measured} jobs arrived")
                time.sleep(0.01)
            after = cpu_us(pid), cpu_us(self._store_pid)
        with self._target.wire() as wire:
            wire.unregister(queue)
        self._forget()
        server_us, store_us = ((end - start) / latest.count for start, end in zip(before, after, strict=True))
        return Cost(latest.per_s, server_us, store_us)

    def _forget(self) -> None:
        """Remove everything, and wait until the memory is free: meanwhile the server answers late."""
        self._store.flushdb(asynchronous=True)
        while int(self._store.info("memory")["lazyfree_pending_objects"]) > 0:
            time.sleep(0.1)
        time.sleep(1.0)


def _job(number: int, groups: int) -> dict[str, object]:
    opts = {"opts": {"group": {"id": f"tenant-{number % groups}"}}} if groups else {}
    return payload.JOB | opts


def _ratios(found: list[Cost], plain: list[Cost]) -> list[float]:
    return sorted(one.per_s / other.per_s for one, other in zip(found, plain, strict=True))


def _line(groups: int, jobs: int, found: list[Cost], ratios: list[float]) -> str:
    columns = (
        f"{groups:>8}", f"{jobs:>8}", f"{median(one.per_s for one in found):>10.0f}", f"{median(ratios):>8.2f}",
        f"({ratios[0]:.2f}-{ratios[-1]:.2f})", f"{median(one.server_us for one in found):>10.1f}",
        f"{median(one.store_us for one in found):>10.1f}",
    )  # fmt: skip
    return " ".join(columns)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measured", type=int, default=20_000)
    parser.add_argument("--groups", type=int, action="append", help=f"(default: {', '.join(map(str, GROUPS))})")
    options = parser.parse_args()
    exit_on_sigterm()
    with ExitStack() as stack:
        url = start_valkey(stack)
        endpoint = Endpoint()
        stack.callback(endpoint.stop)
        target = start_target(stack, "toril", TORIL, url, "group-cost")
        pushes = Pushes(target, redis.Redis.from_url(url), endpoint, options.measured)
        numbers = {groups: pushes.jobs(groups) for groups in options.groups or GROUPS}
        kinds = (*((0, jobs) for jobs in dict.fromkeys(numbers.values())), *numbers.items())
        found: dict[tuple[int, int], list[Cost]] = {kind: [] for kind in kinds}
        pushes.cost(0, pushes.jobs(0))  # warm
        for number in range(options.rounds):
            for kind in kinds if number % 2 == 0 else reversed(kinds):
                found[kind].append(pushes.cost(*kind))
    print("  groups     jobs      per s    ratio (min-max)    server µs   store µs")
    ratios = {kind: _ratios(costs, found[0, kind[1]]) for kind, costs in found.items()}
    for kind, costs in found.items():
        print(_line(*kind, costs, ratios[kind]))
    medians = [median(its) for (groups, _), its in ratios.items() if groups]
    least, apart = min(medians), 1 - min(medians) / max(medians)
    print(f"least ratio {least:.2f} (goal {GOAL}); the numbers of groups are {apart:.0%} apart (goal {EVEN:.0%})")
    return 0 if least >= GOAL and apart <= EVEN else 1


if __name__ == "__main__":
    sys.exit(main())
