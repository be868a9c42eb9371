"""Takes and settles jobs of all queues: what is asked for during one transaction shares the next one.

Owns the SQL that moves a job between waiting, delayed and leased. Concurrent instances never wait for each other's
jobs (`FOR UPDATE SKIP LOCKED`), except where a rate limit is counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from toril.core.destination import Limiter
from toril.core.errors import LeaseLost
from toril.core.lease import NOTHING, NoJob
from toril.delivery.ledger.group_commit import Bounds, GroupCommit
from toril.delivery.postgres_queue.database import QueueDatabase, answering, unless_rolled_back
from toril.delivery.postgres_queue.tables import NOW, PLACE_NOW

_PROMOTED = 500
"""How many delayed jobs of a target begin to wait at once."""
_SIZE_BYTES = 100
_BOUNDS = Bounds(batch=512)

_GATES = f"""
SELECT given.target, {NOW}, q.paused_since IS NOT NULL, q.held_until, q.window_until, q.window_count
FROM unnest($1::text[]) AS given (target) LEFT JOIN toril_queues AS q USING (target)"""
_MAKE_WINDOWS = """
INSERT INTO toril_queues (target) SELECT target FROM unnest($1::text[]) AS given (target) ORDER BY target
ON CONFLICT DO NOTHING"""
_LOCK_WINDOWS = "SELECT target FROM toril_queues WHERE target = ANY($1::text[]) ORDER BY target FOR UPDATE"
_COUNT = """
UPDATE toril_queues AS q SET window_until = given.until, window_count = given.count
FROM unnest($1::text[], $2::float8[], $3::int[]) AS given (target, until, count) WHERE q.target = given.target"""
# A delayed job takes the place among the waiting ones that it would have if it had been added when it became due.
_PROMOTE = f"""
UPDATE toril_jobs AS j SET place = (j.due * 1e6)::bigint, due = NULL
FROM unnest($1::text[]) AS given (target) CROSS JOIN LATERAL (
    SELECT job_id FROM toril_jobs WHERE target = given.target AND due <= {NOW}
    ORDER BY due LIMIT {_PROMOTED} FOR UPDATE SKIP LOCKED
) AS ripe WHERE j.job_id = ripe.job_id"""
_PICK = """
SELECT given.target, first.job_id, first.added FROM unnest($1::text[], $2::int[]) AS given (target, most)
CROSS JOIN LATERAL (
    SELECT job_id, added FROM toril_jobs WHERE target = given.target AND due IS NULL AND token IS NULL
    ORDER BY priority, place, job_id LIMIT given.most FOR UPDATE SKIP LOCKED
) AS first"""
_LEASE = f"""
UPDATE toril_jobs AS j SET token = given.token, locked_until = {NOW} + given.lock_s, starts = j.starts + 1
FROM unnest($1::text[], $2::text[], $3::float8[]) AS given (job_id, token, lock_s) WHERE j.job_id = given.job_id
RETURNING j.job_id, j.starts"""
_NEXT_DUE = """
SELECT given.target, (SELECT min(due) FROM toril_jobs WHERE target = given.target AND due IS NOT NULL)
FROM unnest($1::text[]) AS given (target)"""
_REMOVE = """
DELETE FROM toril_jobs AS j USING unnest($1::text[], $2::text[]) AS given (job_id, token)
WHERE j.job_id = given.job_id AND j.token = given.token RETURNING j.job_id"""
_PUT_BACK = f"""
UPDATE toril_jobs AS j SET token = NULL, locked_until = NULL,
    due = CASE WHEN given.after_s > 0 THEN {NOW} + given.after_s END,
    place = CASE WHEN given.first THEN -{PLACE_NOW} ELSE {PLACE_NOW} END
FROM unnest($1::text[], $2::text[], $3::float8[], $4::bool[]) AS given (job_id, token, after_s, first)
WHERE j.job_id = given.job_id AND j.token = given.token RETURNING j.job_id"""


class Take(Struct, frozen=True):
    """Lease the next job of a target under a token."""

    target: str
    token: str
    lock_s: float
    limiter: Limiter | None = None


class Settle(Struct, frozen=True):
    """Move a leased job: remove it, or put it back after `after_s` (0: now), or as the `first` of the queue.

    `then` takes the next one in the same transaction.
    """

    job_id: str
    token: str
    to: Literal["away", "back", "first"]
    after_s: float = 0.0
    then: Take | None = None


class Taken(Struct, frozen=True):
    """A job that was leased: when it was added (wall clock), and how often it was taken."""

    job_id: str
    added_s: float
    starts: int


Move = Take | Settle
Found = Taken | NoJob
_Takes = dict[str, list[Take]]


class JobMoves:
    """Makes moves for all queues of a process. Every method raises `StoreTimeout` where the database is away."""

    def __init__(self, database: QueueDatabase) -> None:
        self._database = database
        self._moves: GroupCommit[Move, Found | None] = GroupCommit(
            self._commit, size=lambda _: _SIZE_BYTES, bounds=_BOUNDS, lanes=2
        )

    async def run(self) -> None:
        """Make moves until cancelled."""
        await self._moves.run()

    async def take(self, take: Take) -> Found:
        """Lease a job, or say why there is none."""
        with answering():
            return await self._moves.submit(take) or NOTHING

    async def settle(self, settle: Settle) -> Found | None:
        """Move a job, and take the next one if asked to. Raises `LeaseLost`: nothing was written."""
        with answering():
            return await self._moves.submit(settle)

    async def _commit(self, batch: Sequence[Move]) -> list[Found | Exception | None]:
        return await unless_rolled_back(lambda: self._move_all(batch))

    async def _move_all(self, batch: Sequence[Move]) -> list[Found | Exception | None]:
        async with self._database.transaction() as connection:
            settled = await _settled(connection, [one for one in batch if isinstance(one, Settle)])
            takes = [take for one in batch if (take := _take_of(one, settled)) is not None]
            found = await _taken(connection, takes) if takes else {}
        return [_result(one, settled, found) for one in batch]


def _take_of(move: Move, settled: set[str]) -> Take | None:
    if isinstance(move, Take):
        return move
    return move.then if move.job_id in settled else None


def _result(move: Move, settled: set[str], found: Mapping[str, Found]) -> Found | Exception | None:
    if isinstance(move, Take):
        return found[move.token]
    if move.job_id not in settled:
        return LeaseLost()
    return None if move.then is None else found[move.then.token]


async def _settled(connection: Any, settles: Sequence[Settle]) -> set[str]:
    """Settle; return the ids of the jobs whose lease was ours."""
    away = [one for one in settles if one.to == "away"]
    back = [one for one in settles if one.to != "away"]
    settled: set[str] = set()
    if away:
        rows = await connection.fetch(_REMOVE, [one.job_id for one in away], [one.token for one in away])
        settled |= {row[0] for row in rows}
    if back:
        rows = await connection.fetch(
            _PUT_BACK,
            [one.job_id for one in back],
            [one.token for one in back],
            [one.after_s for one in back],
            [one.to == "first" for one in back],
        )
        settled |= {row[0] for row in rows}
    return settled


async def _taken(connection: Any, takes: Sequence[Take]) -> dict[str, Found]:
    """Take; return what was found, by token."""
    by_target: _Takes = defaultdict(list)
    for take in takes:
        by_target[take.target].append(take)
    found: dict[str, Found] = {}
    allowed = await _through_gates(connection, by_target, found)
    if not allowed:
        return found
    targets = list(allowed)
    await connection.execute(_PROMOTE, targets)
    picked = await connection.fetch(_PICK, targets, [len(some) for some in allowed.values()])
    leases: list[tuple[str, Take, float]] = []
    for target, job_id, added_s in picked:
        leases.append((job_id, allowed[target].pop(0), added_s))
    if leases:
        starts = dict(
            await connection.fetch(
                _LEASE,
                [job_id for job_id, _, _ in leases],
                [take.token for _, take, _ in leases],
                [take.lock_s for _, take, _ in leases],
            )
        )
        found.update((take.token, Taken(job_id, added_s, starts[job_id])) for job_id, take, added_s in leases)
        await _count(connection, leases)
    left = [target for target, some in allowed.items() if some]
    if left:
        for target, due in await connection.fetch(_NEXT_DUE, left):
            nothing = NOTHING if due is None else NoJob(next_at_s=due)
            found.update((take.token, nothing) for take in allowed[target])
    return found


async def _through_gates(connection: Any, by_target: _Takes, found: dict[str, Found]) -> _Takes:
    """Return the takes that may be made now; the others find nothing, until a hold or a rate limit ends."""
    limited = [target for target, some in by_target.items() if some[0].limiter is not None]
    if limited:
        await connection.execute(_MAKE_WINDOWS, limited)
        await connection.execute(_LOCK_WINDOWS, limited)
    allowed: _Takes = {}
    for target, now_s, is_paused, held_until, window_until, window_count in await connection.fetch(
        _GATES, list(by_target)
    ):
        some, limiter, nothing = by_target[target], by_target[target][0].limiter, NOTHING
        places = len(some)
        if held_until is not None and held_until > now_s:
            places, nothing = 0, NoJob(retry_in_s=held_until - now_s)
        elif is_paused:
            places = 0
        elif limiter is not None and window_until > now_s:
            places = min(places, max(0, limiter.max - window_count))
            nothing = NoJob(retry_in_s=window_until - now_s)
        elif limiter is not None:
            places, nothing = min(places, limiter.max), NoJob(retry_in_s=limiter.duration / 1000)
        if places:
            allowed[target] = some[:places]
        found.update((take.token, nothing) for take in some[places:])
    return allowed


_WINDOW = f"""
SELECT target, {NOW}, window_until, window_count FROM toril_queues WHERE target = ANY($1::text[])"""


async def _count(connection: Any, leases: Sequence[tuple[str, Take, float]]) -> None:
    """Count what was taken under a rate limit; a window begins with its first job."""
    counts: dict[str, int] = defaultdict(int)
    limiters: dict[str, Limiter] = {}
    for _, take, _ in leases:
        if take.limiter is not None:
            counts[take.target] += 1
            limiters[take.target] = take.limiter
    if not counts:
        return
    windows: list[tuple[str, float, int]] = []
    for target, now_s, until_s, count in await connection.fetch(_WINDOW, list(counts)):
        if until_s > now_s:
            windows.append((target, until_s, count + counts[target]))
        else:
            windows.append((target, now_s + limiters[target].duration / 1000, counts[target]))
    await connection.execute(_COUNT, *(list(column) for column in zip(*windows, strict=True)))
