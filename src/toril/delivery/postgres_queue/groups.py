"""The groups of targets in PostgreSQL: their limits, what they have, and how many of their jobs may wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from toril.bullmq.groups.defaults import GroupDefaults
from toril.bullmq.rules.groups import GroupLimits, GroupState, member_of
from toril.core.errors import GroupFull
from toril.core.group_limits import GroupDefault, GroupRate
from toril.delivery.postgres_queue.database import QueueDatabase
from toril.delivery.postgres_queue.group_moves import TargetLocks, left
from toril.delivery.postgres_queue.waits import PostgresWaits
from toril.delivery.rules.delivery import target_of
from toril.redis.absent import NoRedis

_PAGE = 1000
_NAMES = f"""
SELECT name FROM toril_groups WHERE target = $1 AND name > $2 AND (waits OR limited)
UNION SELECT job_group FROM toril_jobs WHERE target = $1 AND job_group > $2 AND token IS NOT NULL
ORDER BY 1 LIMIT {_PAGE}"""
_READ = """
SELECT given.name,
    (SELECT count(*) FROM toril_jobs AS j
        WHERE j.target = $1 AND j.job_group = given.name AND j.due IS NULL AND j.token IS NULL),
    (SELECT count(*) FROM toril_jobs AS j WHERE j.target = $1 AND j.job_group = given.name AND j.token IS NOT NULL),
    g.concurrency, g.most, g.per, g.weight, g.max_waiting, coalesce(g.paused, false), coalesce(g.arrival, 0)
FROM unnest($2::text[]) WITH ORDINALITY AS given (name, number)
LEFT JOIN toril_groups AS g ON g.target = $1 AND g.name = given.name ORDER BY given.number"""
_BEFORE = """
SELECT concurrency, most, per, weight, max_waiting, paused FROM toril_groups WHERE target = $1 AND name = $2"""
# A group at a limit looks at it again, and a new rate starts afresh.
_LIMIT = """
INSERT INTO toril_groups AS g
    (target, name, member, concurrency, most, per, weight, max_waiting, paused, limited)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (target, name) DO UPDATE SET concurrency = excluded.concurrency, most = excluded.most, per = excluded.per,
    weight = excluded.weight, max_waiting = excluded.max_waiting, paused = excluded.paused, limited = excluded.limited,
    arrival = CASE WHEN (g.most, g.per) IS NOT DISTINCT FROM (excluded.most, excluded.per) THEN g.arrival ELSE 0 END,
    start_at = CASE WHEN g.start_at = 0 THEN g.start_at END"""
_ENTER = "SELECT toril_enter_group(target, name) FROM toril_groups WHERE target = $1 AND name = $2 AND waits"
_WAITING = """
SELECT job_id FROM toril_jobs WHERE target = $1 AND job_group = $2 AND due IS NULL AND token IS NULL
ORDER BY (starts = 0), priority, place, job_id OFFSET $3 LIMIT $4"""
_DRAIN = """
DELETE FROM toril_jobs WHERE job_id = ANY(ARRAY(
    SELECT job_id FROM toril_jobs WHERE target = $1 AND job_group = $2 AND due IS NULL AND token IS NULL
    FOR UPDATE SKIP LOCKED
)) RETURNING 1"""
_TAKE_ROOM = "SELECT toril_take_room($1, $2, $3, $4)"
_FREE_ROOM = "DELETE FROM toril_rooms WHERE target = $1 AND name = $2 AND job_id = $3"
_RESERVED_S = 10.0
"""How long room is kept for a job: many times as long as accepting its envelope may take."""


class PostgresGroups:
    """`GroupStore` and `GroupRoom` of the targets' queues.

    Args:
        database: has them.
        waits: told of what may start.
        defaults: the limits of groups that have none.
    """

    def __init__(self, database: QueueDatabase, waits: PostgresWaits, defaults: GroupDefaults) -> None:
        self._database = database
        self._waits = waits
        self._defaults = defaults

    async def take_room(self, queue: str, group: str, job_id: str) -> None:
        """As `GroupRoom.take_room`."""
        ((taken,),) = await self._database.fetch(_TAKE_ROOM, _target(queue), group, job_id, _RESERVED_S)
        if not taken:
            raise GroupFull(f"The group {group} has no room for more waiting jobs")

    async def free_room(self, queue: str, group: str, job_id: str) -> None:
        """As `GroupRoom.free_room`."""
        await self._database.fetch(_FREE_ROOM, _target(queue), group, job_id)

    async def get(self, queue: str, group: str) -> GroupState:
        """As `GroupStore.get`."""
        (found,) = await self._read(queue, [group])
        return found

    async def page(
        self, queue: str, after: str, most: int, matches: Callable[[str], object]
    ) -> tuple[list[GroupState], bool]:
        """As `GroupStore.page`."""
        names: list[str] = []
        is_last = False
        while not is_last and len(names) <= most:
            found = [row[0] for row in await self._database.fetch(_NAMES, _target(queue), after)]
            is_last = len(found) < _PAGE
            names += filter(matches, found)
            after = found[-1] if found else after
        return await self._read(queue, names[:most]), len(names) > most

    async def _read(self, queue: str, names: Sequence[str]) -> list[GroupState]:
        default = self._defaults.of(queue) or GroupDefault()
        return [_state(row, default) for row in await self._database.fetch(_READ, _target(queue), list(names))]

    async def set_limits(self, queue: str, group: str, limits: GroupLimits, *, paused: bool | None) -> None:
        """As `GroupStore.set_limits`."""
        await self._change(queue, group, limits, paused)

    async def remove_limits(self, queue: str, group: str) -> None:
        """As `GroupStore.remove_limits`."""
        await self._change(queue, group, GroupLimits(), False)

    async def pause(self, queue: str, group: str) -> None:
        """As `GroupStore.pause`."""
        await self._change(queue, group, None, True)

    async def resume(self, queue: str, group: str) -> None:
        """As `GroupStore.resume`."""
        await self._change(queue, group, None, False)

    async def _change(self, queue: str, group: str, limits: GroupLimits | None, paused: bool | None) -> None:
        """Replace the limits, and the pause; None leaves them as they are."""
        target = _target(queue)
        async with self._database.transaction(durable=True) as connection:
            locks = TargetLocks(connection)
            await locks.take([target])
            rows = await connection.fetch(_BEFORE, target, group)
            before = _limits(*rows[0]) if rows else GroupLimits()
            after = replace(limits or before, paused=before.paused if paused is None else paused)
            await connection.execute(_LIMIT, target, group, member_of(group), *_columns(after))
            await connection.fetch(_ENTER, target, group)
            await left(connection, locks, target, group)
            await self._waits.tell(connection, ("jobs", queue, "0"))
        self._waits.jobs_wait(queue)

    async def waiting(self, queue: str, group: str, skip: int, most: int) -> list[str]:
        """As `GroupStore.waiting`."""
        return [row[0] for row in await self._database.fetch(_WAITING, _target(queue), group, skip, most)]

    async def drain(self, queue: str, group: str) -> int:
        """As `GroupStore.drain`."""
        target = _target(queue)
        async with self._database.transaction() as connection:
            locks = TargetLocks(connection)
            await locks.take([target])
            removed = await connection.fetch(_DRAIN, target, group)
            await left(connection, locks, target, group)
        return len(removed)


def _target(queue: str) -> str:
    """Return the target of a queue. Raises `NoRedis` for a queue that is no target's."""
    target = target_of(queue)
    if target is None:
        raise NoRedis
    return target


def _limits(
    concurrency: int | None, most: int | None, per_s: float | None, weight: int | None, max_waiting: int | None,
    paused: bool,
) -> GroupLimits:  # fmt: skip
    rate = None if most is None or per_s is None else GroupRate(most, round(per_s * 1000))
    return GroupLimits(concurrency, rate, weight, max_waiting, paused)


def _columns(limits: GroupLimits) -> tuple[Any, ...]:
    most, per_s = (None, None) if limits.limit is None else (limits.limit.max, limits.limit.duration / 1000)
    own = (limits.concurrency, most, per_s, limits.weight, limits.max_waiting, limits.paused)
    return *own, limits != GroupLimits()


def _state(row: Sequence[Any], default: GroupDefault) -> GroupState:
    name, waiting, active, *limits, arrival_s = row
    return GroupState(name, waiting, active, _limits(*limits), default, arrival_s * 1000)
