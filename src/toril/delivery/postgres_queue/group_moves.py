"""Starts jobs of targets that have groups, and takes note of slots that are free again, in the caller's transaction.

Owns the lock of a target's row, under which `sql/groups.sql` changes groups. A transaction takes the locks of all its
targets at once and in order, after it has changed rows of jobs, so that no two of them wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from toril.core.group_limits import GroupDefault

# Others have a row for no longer than a batch of adds or moves takes; only callers of SQL enqueue keep locks for long.
_LOCK = """
WITH patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10000', true)),
locked AS MATERIALIZED (
    SELECT target FROM toril_queues CROSS JOIN patience WHERE target = ANY($1::text[]) ORDER BY target
    FOR UPDATE OF toril_queues
) SELECT target FROM locked"""
_MAKE = """
INSERT INTO toril_queues (target) SELECT target FROM unnest($1::text[]) AS given (target) ORDER BY target
ON CONFLICT DO NOTHING"""
_MARK = "UPDATE toril_queues SET grouped = true WHERE target = ANY($1::text[]) AND NOT grouped"
_CHANGED = """
SELECT given.target, toril_group_changed(given.target, given.name, given.is_free, given.is_waiting)
FROM unnest($1::text[], $2::text[], $3::bool[], $4::bool[]) AS given (target, name, is_free, is_waiting)"""
_LEFT = "SELECT toril_group_left($1, $2)"
_START = "SELECT * FROM toril_start_jobs($1, $2::text[], $3, $4, $5, $6, $7)"
_MOST_LOOKS = 20


class SlotChange(Struct, frozen=True):
    """A job of a group has freed its slot (`is_free`), or begins to wait (`is_waiting`), or both."""

    target: str
    name: str
    is_free: bool
    is_waiting: bool


class Started(Struct):
    """What was started, by token: job id, when it was added, and how often it was leased.

    `held` is in turn a group, why it was held back, and how many of its jobs wait. `next_at_s` is when a job of a group
    may start that may not start now.
    """

    leases: dict[str, tuple[str, float, int]]
    held: list[bytes | int]
    next_at_s: float | None = None


class TargetLocks:
    """The rows of targets that a transaction has locked."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._targets: set[str] = set()

    async def take(self, targets: Iterable[str]) -> None:
        """Lock these as well, which makes a row for a target that has none."""
        wanted = sorted(set(targets) - self._targets)
        if wanted:
            found = await self._connection.fetch(_LOCK, wanted)
            if len(found) < len(wanted):
                await self._connection.execute(_MAKE, wanted)
                await self._connection.fetch(_LOCK, wanted)
            self._targets.update(wanted)


async def changed(connection: Any, locks: TargetLocks, changes: Sequence[SlotChange]) -> list[str]:
    """Take note of changes; return a target for each group that may start a job since then."""
    if not changes:
        return []
    targets = {one.target for one in changes}
    await locks.take(targets)
    if any(one.is_waiting for one in changes):
        await connection.execute(_MARK, list(targets))
    rows = await connection.fetch(
        _CHANGED,
        [one.target for one in changes],
        [one.name for one in changes],
        [one.is_free for one in changes],
        [one.is_waiting for one in changes],
    )
    return [target for target, enters in rows if enters]


async def mark_grouped(connection: Any, locks: TargetLocks, targets: Iterable[str]) -> None:
    """Take note that these targets have jobs of groups."""
    named = sorted(set(targets))
    await locks.take(named)
    await connection.execute(_MARK, named)


async def left(connection: Any, locks: TargetLocks, target: str, group: str) -> None:
    """Take note that jobs of a group are gone."""
    await locks.take([target])
    await connection.fetch(_LEFT, target, group)


async def started(
    connection: Any, target: str, tokens: Sequence[str], lock_s: float, default: GroupDefault | None, *, recovers: bool
) -> Started:
    """Start a job for each token, as far as groups may; the target is locked. With `recovers`, lapsed leases end."""
    done = Started({}, [])
    for _ in range(_MOST_LOOKS):
        rest = [token for token in tokens if token not in done.leases]
        if not rest or not await _look(connection, done, target, rest, (lock_s, recovers, *_values(default))):
            break
    return done


async def _look(connection: Any, done: Started, target: str, tokens: Sequence[str], values: Sequence[Any]) -> bool:
    """Start what may start; return True if there may be more to look at now."""
    is_more = False
    for kind, token, found, added_s, number, at_s in await connection.fetch(_START, target, tokens, *values):
        match kind:
            case "lease":
                done.leases[token] = (found, added_s, number)
            case "held":
                done.held += [found.encode(), token.encode(), number]
            case "next":
                done.next_at_s = at_s
            case "more":
                is_more = True
    return is_more


def _values(default: GroupDefault | None) -> tuple[int | None, int | None, float | None]:
    if default is None:
        return None, None, None
    rate = default.limit
    return default.concurrency, *((None, None) if rate is None else (rate.max, rate.duration / 1000))
