"""Adds the jobs of deliveries to the queues of their targets, finds and cancels them, and counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET, Struct

from toril.bullmq.rules.job import JobSpec
from toril.core.metrics import JOBS_ADDED, UNMETERED, GroupDepth, QueueDepth
from toril.core.ports import Meter
from toril.delivery.ledger.group_commit import GroupCommit
from toril.delivery.postgres_queue.database import QueueDatabase, answering, unless_rolled_back
from toril.delivery.postgres_queue.group_depths import largest_groups
from toril.delivery.postgres_queue.group_moves import SlotChange, TargetLocks, changed, left, mark_grouped
from toril.delivery.postgres_queue.tables import NOW
from toril.delivery.postgres_queue.waits import PostgresWaits
from toril.delivery.rules.delivery import QUEUE_PREFIX, queue_of

_ADD = f"""
INSERT INTO toril_jobs (job_id, target, priority, place, added, due, job_group)
SELECT job_id, target, priority, ({NOW} * 1e6)::bigint, {NOW}, CASE WHEN after_s > 0 THEN {NOW} + after_s END, name
FROM unnest($1::text[], $2::text[], $3::int[], $4::float8[], $5::text[])
    AS given (job_id, target, priority, after_s, name)
ORDER BY job_id ON CONFLICT DO NOTHING RETURNING target, due, job_group"""
_USE_ROOM = """
DELETE FROM toril_rooms AS r USING unnest($1::text[], $2::text[], $3::text[]) AS given (target, name, job_id)
WHERE r.target = given.target AND r.name = given.name AND r.job_id = given.job_id"""
_MISSING = """
SELECT job_id FROM unnest($1::text[]) AS given (job_id)
WHERE NOT EXISTS (SELECT FROM toril_jobs AS j WHERE j.job_id = given.job_id)"""
_CANCEL = "DELETE FROM toril_jobs WHERE job_id = $1 RETURNING target, job_group, token IS NOT NULL"
_HELD = "SELECT job_id FROM toril_jobs WHERE job_id = ANY($1::text[]) AND token IS NOT NULL"
_COUNTS = f"""
SELECT given.target, count(*) FILTER (WHERE token IS NOT NULL),
    count(*) FILTER (WHERE token IS NULL AND due IS NULL AND priority = 0),
    count(*) FILTER (WHERE token IS NULL AND due IS NULL AND priority > 0), count(due),
    {NOW} - min(added) FILTER (WHERE token IS NULL AND due IS NULL),
    bool_or(q.paused_since IS NOT NULL), bool_or(q.grouped)
FROM unnest($1::text[]) AS given (target) LEFT JOIN toril_jobs AS j USING (target)
LEFT JOIN toril_queues AS q USING (target) GROUP BY given.target"""
_SIZE_BYTES = 300


class _NewJob(Struct, frozen=True):
    """A job to add: it may begin in `after_s`. In a group, `priority` is that within the group."""

    job_id: str
    target: str
    priority: int
    after_s: float
    group: str | None = None


class PostgresJobs:
    """The jobs of all targets.

    Args:
        database: has them.
        waits: told of jobs that are added or cancelled.
        meter: counts what is added.
    """

    def __init__(self, database: QueueDatabase, waits: PostgresWaits, meter: Meter = UNMETERED) -> None:
        self._database = database
        self._waits = waits
        self._meter = meter
        self._adds: GroupCommit[_NewJob, None] = GroupCommit(self._commit, size=lambda _: _SIZE_BYTES)

    async def run(self) -> None:
        """Add jobs until cancelled."""
        await self._adds.run()

    async def add(self, queue: str, jobs: Sequence[JobSpec], now_ms: int, *, again: bool = False) -> list[bytes]:
        """As `JobProducer.add`; idempotent, because every job has a custom id."""
        new = [_new(queue.removeprefix(QUEUE_PREFIX), job) for job in jobs]
        with answering():
            for result in await self._adds.submit_all(new):
                if result is not None:
                    raise result
        if not again:
            self._meter.count(JOBS_ADDED, (queue,), len(new))
        return [one.job_id.encode() for one in new]

    async def missing(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """As `JobFinder.missing`."""
        return [row[0] for row in await self._database.fetch(_MISSING, list(job_ids))]

    async def held(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """As `JobFinder.held`."""
        return [row[0] for row in await self._database.fetch(_HELD, list(job_ids))]

    async def cancel(self, queue: str, job_id: str) -> bool:
        """As `Cancels.cancel`."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_CANCEL, job_id)
            locks, enter = TargetLocks(connection), list[str]()
            for target, group, is_leased in rows:
                if group is not None:
                    enter = await changed(connection, locks, [SlotChange(target, group, is_leased, False)])
                    await left(connection, locks, target, group)
            told = [("jobs", queue, "0")] if enter else []
            await self._waits.tell(connection, ("cancelled", queue, job_id), *told)
        self._waits.cancelled(queue, job_id)
        if enter:
            self._waits.jobs_wait(queue)
        return bool(rows)

    async def counts(self, queue: str, states: Sequence[str]) -> Mapping[str, int]:
        """Return how many jobs are in each of these states; `waiting` includes those of a paused target."""
        (depth,) = await self.read([queue])
        return {state: depth.jobs.get(state, 0) for state in states}

    async def read(self, queues: Sequence[str]) -> list[QueueDepth]:
        """As `QueueDepths.read`."""
        targets = [queue.removeprefix(QUEUE_PREFIX) for queue in queues]
        rows = {row[0]: row[1:] for row in await self._database.fetch(_COUNTS, targets)}
        grouped = [target for target, row in rows.items() if row[-1]]
        groups = await largest_groups(self._database, grouped) if grouped else {}
        return [_depth(target, rows[target], groups.get(target, ())) for target in targets]

    async def _commit(self, batch: Sequence[_NewJob]) -> list[None]:
        return await unless_rolled_back(lambda: self._add_all(batch))

    async def _add_all(self, batch: Sequence[_NewJob]) -> list[None]:
        async with self._database.transaction() as connection:
            rows = await connection.fetch(
                _ADD,
                [one.job_id for one in batch],
                [one.target for one in batch],
                [one.priority for one in batch],
                [one.after_s for one in batch],
                [one.group for one in batch],
            )
            await _use_room(connection, [one for one in batch if one.group is not None])
            await _meet_groups(connection, rows)
            soonest: dict[str, float] = {}
            for target, due, _ in rows:
                soonest[target] = min(due or 0.0, soonest.get(target, float("inf")))
            if soonest:
                await self._waits.tell(
                    connection, *(("jobs", queue_of(target), repr(at_s)) for target, at_s in soonest.items())
                )
        for target, at_s in soonest.items():
            self._waits.jobs_wait(queue_of(target), at_s)
        return [None] * len(batch)


async def _use_room(connection: Any, grouped: Sequence[_NewJob]) -> None:
    """Free the room that was taken for jobs of groups, now that they are there."""
    if grouped:
        columns = ([one.target for one in grouped], [one.group for one in grouped], [one.job_id for one in grouped])
        await connection.execute(_USE_ROOM, *columns)


async def _meet_groups(connection: Any, rows: Sequence[Any]) -> None:
    """Take note of the groups of jobs that were added."""
    grouped = {target for target, _, group in rows if group is not None}
    if grouped:
        locks = TargetLocks(connection)
        await mark_grouped(connection, locks, grouped)
        waiting = dict.fromkeys((target, group) for target, due, group in rows if group is not None and due is None)
        changes = [SlotChange(target, group, is_free=False, is_waiting=True) for target, group in waiting]
        await changed(connection, locks, changes)


def _new(target: str, job: JobSpec) -> _NewJob:
    options = job.opts
    if options is None or options.jobId is UNSET or options.jobId is None:
        raise ValueError("the job of a delivery has its id")
    delay_ms = 0.0 if options.delay is UNSET else options.delay
    priority = 0 if options.priority is UNSET else options.priority
    if options.group is UNSET:
        return _NewJob(str(options.jobId), target, priority, delay_ms / 1000)
    return _NewJob(str(options.jobId), target, options.group.order, delay_ms / 1000, options.group.name)


def _depth(target: str, counted: Sequence[Any], groups: tuple[GroupDepth, ...]) -> QueueDepth:
    active, waiting, prioritized, delayed, oldest_s, paused, _ = counted
    jobs = {"active": active, "prioritized": prioritized, "delayed": delayed, "completed": 0, "failed": 0}
    jobs |= {"waiting-children": 0, "waiting": 0 if paused else waiting, "paused": waiting if paused else 0}
    return QueueDepth(queue_of(target), jobs, max(0.0, oldest_s or 0.0), bool(paused), groups)
