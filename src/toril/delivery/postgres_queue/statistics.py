"""The statistics of the fleet in PostgreSQL: the points of queues and doors, and why attempts failed.

All processes of all instances add to the same rows. A queue without traffic has none, and rows that are too old to be
read are removed by those who write.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

import msgspec
import structlog
from msgspec import Struct

from toril.core.errors import StoreError
from toril.core.ports import Now
from toril.delivery.postgres_queue.database import QueueDatabase, unless_rolled_back
from toril.telemetry.failures import Failure, Why
from toril.telemetry.rules.points import Counts, Resolution, Scope, Window, add

log = structlog.get_logger(__name__)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Counts).decode
_NOTHING = _encode({})

# In one order, so that two processes do not wait for each other.
_GIVEN = "unnest($2::text[], $3::bigint[]) AS given (scope, slot)"
_MAKE = f"""
INSERT INTO toril_points (resolution, scope, slot, counts, until)
SELECT $1, scope, slot, $4, (slot + 1) * $5::float8 + $6::float8
FROM {_GIVEN} ORDER BY scope, slot ON CONFLICT DO NOTHING"""
_LOCK = f"""
SELECT one.scope, one.slot, one.counts FROM toril_points AS one JOIN {_GIVEN} USING (scope, slot)
WHERE one.resolution = $1 ORDER BY one.scope, one.slot FOR UPDATE OF one"""
_WRITE = """
UPDATE toril_points AS one SET counts = given.counts
FROM unnest($2::text[], $3::bigint[], $4::bytea[]) AS given (scope, slot, counts)
WHERE one.resolution = $1 AND one.scope = given.scope AND one.slot = given.slot"""
_FORGET = """
DELETE FROM toril_points WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM toril_points WHERE until < $1 LIMIT 1000 FOR UPDATE SKIP LOCKED
))"""
_READ = """
SELECT scope, slot, counts FROM toril_points
WHERE resolution = $1 AND scope = ANY($2::text[]) AND slot BETWEEN $3 AND $4"""

_MOST_STORED = 500
_BLOCK_S = 600
_BLOCKS = 6
"""So many whole blocks, and the one that is growing, are read."""
_ADD = f"""
INSERT INTO toril_failures AS one (block, queue, reason, times, last)
SELECT $1, queue, reason, times, $2 FROM unnest($3::bytea[], $4::bytea[], $5::bigint[]) AS given (queue, reason, times)
WHERE (SELECT count(*) FROM toril_failures WHERE block = $1) < {_MOST_STORED}
    OR EXISTS (SELECT FROM toril_failures AS o WHERE (o.block, o.queue, o.reason) = ($1, given.queue, given.reason))
ORDER BY queue, reason
ON CONFLICT (block, queue, reason) DO UPDATE SET times = one.times + excluded.times, last = excluded.last"""
_FORGET_FAILURES = "DELETE FROM toril_failures WHERE block < $1"
_RECENT = """
SELECT queue, reason, sum(times)::bigint, max(last) FROM toril_failures WHERE block >= $1
GROUP BY queue, reason HAVING max(last) >= $2 ORDER BY 3 DESC, queue, reason"""


class _Attempt(Struct):
    """An attempt to add; it `commits` once the database may have taken it."""

    commits: bool = False


class PostgresPoints:
    """Adds to points, and reads them."""

    def __init__(self, database: QueueDatabase) -> None:
        self._database = database

    async def add(
        self, resolution: Resolution, points: Mapping[tuple[Scope, int], Counts]
    ) -> Mapping[tuple[Scope, int], Counts]:
        """As `PointsWriter.add`. Counts that may have been added are not added again."""
        attempt = _Attempt()
        try:
            await unless_rolled_back(lambda: self._add(resolution, points, attempt))
        except StoreError as exc:
            log.debug("stats.not_written", resolution=resolution.name, error=exc.message)
            return {} if attempt.commits else points
        return {}

    async def _add(self, resolution: Resolution, points: Mapping[tuple[Scope, int], Counts], attempt: _Attempt) -> None:
        attempt.commits = False
        named = {(_name(scope), slot): counts for (scope, slot), counts in points.items()}
        given = [name for name, _ in named], [slot for _, slot in named]
        async with self._database.transaction() as connection:
            await connection.execute(
                _MAKE, resolution.name, *given, _NOTHING, float(resolution.step_s), float(resolution.kept_s)
            )
            for name, slot, stored in await connection.fetch(_LOCK, resolution.name, *given):
                add(named[name, slot], _counts(name, stored))
            await connection.execute(_WRITE, resolution.name, *given, [_encode(one) for one in named.values()])
            newest = max(slot for _, slot in named)
            await connection.execute(_FORGET, float(newest * resolution.step_s))
            attempt.commits = True

    async def read(self, scopes: Iterable[Scope], window: Window, now_s: float) -> Mapping[Scope, list[Counts]]:
        """As `PointsReader.read`."""
        wanted = {_name(scope): scope for scope in scopes}
        first, found = window.first(now_s), defaultdict[str, dict[int, Counts]](dict)
        last = first + window.points - 1
        for name, slot, stored in await self._database.fetch(_READ, window.resolution.name, list(wanted), first, last):
            found[name][slot] = _counts(name, stored)
        return {scope: [found[name].get(slot, {}) for slot in range(first, last + 1)] for name, scope in wanted.items()}


class PostgresFailures:
    """`FleetFailures` in PostgreSQL: a row for each reason and ten minutes."""

    def __init__(self, database: QueueDatabase, now: Now) -> None:
        self._database = database
        self._now = now

    async def add(self, noted: Counter[Why]) -> None:
        """As `FleetFailures.add`."""
        if not noted:
            return
        now_s = self._now()
        block = int(now_s // _BLOCK_S)
        # As bytes, because a text of PostgreSQL holds no NUL.
        queues = [queue.encode(errors="replace") for queue, _ in noted]
        reasons = [reason.encode(errors="replace") for _, reason in noted]
        try:
            async with self._database.transaction() as connection:
                await connection.execute(_ADD, block, now_s, queues, reasons, list(noted.values()))
                await connection.execute(_FORGET_FAILURES, block - _BLOCKS)
        except StoreError as exc:
            log.debug("stats.not_written", block=block, error=exc.message)

    async def recent(self, sees: Callable[[str], bool]) -> list[Failure]:
        """As `FleetFailures.recent`."""
        now_s = self._now()
        since = int(now_s // _BLOCK_S) - _BLOCKS
        rows = await self._database.fetch(_RECENT, since, now_s - _BLOCKS * _BLOCK_S)
        found = [Failure(queue.decode(), reason.decode(), times, last_s) for queue, reason, times, last_s in rows]
        return [one for one in found if sees(one.queue)]


def _name(scope: Scope) -> str:
    return f"{scope.kind}:{scope.name}"


def _counts(name: str, stored: bytes) -> Counts:
    try:
        return _decode(stored)
    except msgspec.DecodeError:
        log.warning("stats.unreadable", key=name)
        return {}
