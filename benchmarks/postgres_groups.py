"""What groups of deliveries cost PostgreSQL where there is no Redis: a target without groups, and with few and many.

    python -m benchmarks.postgres_groups --rounds 5

Each round makes a database for each number of groups, adds a waiting job for each group and then `--measured` more, and
settles and takes jobs with sixteen workers. It prints microseconds of CPU for a job that is added, and for one that is
settled while the next one is taken: of this process, and of the server. Ratios to the target without groups are taken
in each round before the median, since the machine may be busy.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from statistics import median

from msgspec import Raw, Struct
from tests.conformance.postgres_queues import serving
from tests.support.postgres import PostgresProcess

from benchmarks.procfs import cpu_s
from toril.bullmq.rules.groups import GroupOption
from toril.bullmq.rules.job import JobOptions, JobSpec
from toril.core.group_limits import GroupDefault
from toril.core.lease import Lease
from toril.core.verdict import Complete
from toril.delivery.postgres_queue.queue import PostgresQueue
from toril.delivery.rules.destination import TargetRules

GROUPS = (0, 10, 1_000, 100_000)
QUEUE = "deliver-billing"
_WORKERS = 16
_BULK = 500
_DONE = Complete(b"null")


class Cost(Struct, frozen=True):
    """Microseconds of CPU of this process and of the server, for a job that is added and for one that is settled."""

    add_us: float
    add_server_us: float
    settle_us: float
    settle_server_us: float


class Clock:
    """The CPU that this process and a server have taken."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._now()

    def _now(self) -> tuple[float, float]:
        return time.process_time(), cpu_s(self._pid)

    def lap_us(self, jobs: int) -> tuple[float, float]:
        """Return the microseconds for a job since the last lap, of this process and of the server."""
        before, self._before = self._before, self._now()
        own_s, server_s = (after - start for start, after in zip(before, self._before, strict=True))
        return own_s / jobs * 1e6, server_s / jobs * 1e6


async def measured(postgres: PostgresProcess, pid: int, groups: int, jobs: int) -> Cost:
    """Measure one target with so many groups, 0 for none."""
    async with serving(postgres.database()) as queue:
        if groups:
            await add(queue, "first", groups, groups)
        clock = Clock(pid)
        await add(queue, "more", jobs, groups)
        added = clock.lap_us(jobs)
        store = queue.leases.of(QUEUE, TargetRules(None, GroupDefault(concurrency=4) if groups else None))
        left = jobs - _WORKERS

        async def work(token: bytes) -> None:
            nonlocal left
            found = await store.take(token)
            while isinstance(found, Lease) and left > 0:
                left -= 1
                found = await store.complete(found, _DONE, fetch_next=True) or found

        async with asyncio.TaskGroup() as tasks:
            for number in range(_WORKERS):
                tasks.create_task(work(b"worker:%d" % number))
        return Cost(*added, *clock.lap_us(jobs - _WORKERS))


async def add(queue: PostgresQueue, name: str, jobs: int, groups: int) -> None:
    """Add jobs, one after the other over the groups."""
    for first in range(0, jobs, _BULK):
        numbers = range(first, min(first + _BULK, jobs))
        await queue.jobs.add(QUEUE, [_job(f"{name}-{number:07}", number, groups) for number in numbers], 0)


def _job(job_id: str, number: int, groups: int) -> JobSpec:
    if not groups:
        return JobSpec("delivery", Raw(b"{}"), JobOptions(jobId=job_id))
    return JobSpec("delivery", Raw(b"{}"), JobOptions(jobId=job_id, group=GroupOption(f"group-{number % groups}")))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measured", type=int, default=4_000)
    options = parser.parse_args(arguments)
    found: dict[int, list[Cost]] = {groups: [] for groups in GROUPS}
    with PostgresProcess() as postgres:
        pid = int((postgres.data / "postmaster.pid").read_text().splitlines()[0])
        for _ in range(options.rounds):
            for groups, costs in found.items():
                costs.append(asyncio.run(measured(postgres, pid, groups, options.measured)))
    print(f"{'groups':>8} {'add':>8} {'server':>8} {'settle':>8} {'server':>8} {'ratio':>6}")
    for groups, costs in found.items():
        ratios = [one.settle_server_us / plain.settle_server_us for one, plain in zip(costs, found[0], strict=True)]
        shown = [
            median(one.add_us for one in costs),
            median(one.add_server_us for one in costs),
            median(one.settle_us for one in costs),
            median(one.settle_server_us for one in costs),
        ]
        print(f"{groups:>8}", *(f"{value:>8.0f}" for value in shown), f"{median(ratios):>6.2f}")


if __name__ == "__main__":
    main()
