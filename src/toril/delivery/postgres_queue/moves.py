"""Takes and settles jobs of all queues: what is asked for during one transaction shares the next one.

Owns the SQL that moves a job between waiting, delayed and leased. Concurrent instances never wait for each other's
jobs (`FOR UPDATE SKIP LOCKED`), except where a rate limit is counted, or a target has groups.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from toril.core.destination import Limiter
from toril.core.errors import LeaseLost
from toril.core.group_limits import GroupDefault
from toril.core.lease import NOTHING, NoJob
from toril.delivery.ledger.group_commit import Bounds, GroupCommit
from toril.delivery.postgres_queue.database import QueueDatabase, answering, unless_rolled_back
from toril.delivery.postgres_queue.group_moves import SlotChange, TargetLocks, changed, started
from toril.delivery.postgres_queue.tables import NOW, PLACE_NOW
from toril.delivery.postgres_queue.waits import PostgresWaits
from toril.delivery.rules.delivery import queue_of

_PROMOTED = 500
"""How many delayed jobs of a target begin to wait at once."""
_SIZE_BYTES = 100
_BOUNDS = Bounds(batch=512)

_GATES = f"""
SELECT given.target, {NOW}, q.paused_since IS NOT NULL, q.held_until, q.window_until, q.window_count,
    coalesce(q.grouped, false)
FROM unnest($1::text[]) AS given (target) LEFT JOIN toril_queues AS q USING (target)"""
_COUNT = """
UPDATE toril_queues AS q SET window_until = given.until, window_count = given.count
FROM unnest($1::text[], $2::float8[], $3::int[]) AS given (target, until, count) WHERE q.target = given.target"""
# A delayed job takes the place among the waiting ones that it would have if it had been added when it became due.
_PROMOTE = f"""
UPDATE toril_jobs AS j SET place = (j.due * 1e6)::bigint, due = NULL
FROM unnest($1::text[]) AS given (target) CROSS JOIN LATERAL (
    SELECT job_id FROM toril_jobs WHERE target = given.target AND due <= {NOW}
    ORDER BY due LIMIT {_PROMOTED} FOR UPDATE SKIP LOCKED
) AS ripe WHERE j.job_id = ripe.job_id RETURNING j.target, j.job_group"""
_PICK = """
SELECT given.target, first.job_id, first.added FROM unnest($1::text[], $2::int[]) AS given (target, most)
CROSS JOIN LATERAL (
    SELECT job_id, added FROM toril_jobs
    WHERE target = given.target AND due IS NULL AND token IS NULL AND job_group IS NULL
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
WHERE j.job_id = given.job_id AND j.token = given.token RETURNING j.job_id, j.target, j.job_group, false"""
_PUT_BACK = f"""
UPDATE toril_jobs AS j SET token = NULL, locked_until = NULL,
    due = CASE WHEN given.after_s > 0 THEN {NOW} + given.after_s END,
    place = CASE WHEN given.first AND j.job_group IS NULL THEN -{PLACE_NOW} ELSE {PLACE_NOW} END
FROM unnest($1::text[], $2::text[], $3::float8[], $4::bool[]) AS given (job_id, token, after_s, first)
WHERE j.job_id = given.job_id AND j.token = given.token
RETURNING j.job_id, j.target, j.job_group, j.due IS NULL"""


class Take(Struct, frozen=True):
    """Lease the next job of a target under a token."""

    target: str
    token: str
    lock_s: float
    limiter: Limiter | None = None
    group: GroupDefault | None = None


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
_Leases = list[tuple[Take, Taken]]


class HeldCounts(Protocol):
    """Counts how often groups were held back."""

    def count(self, queue: str, held: Sequence[Any]) -> None:
        """Count what was held: in turn the group, the reason, and how many of its jobs wait."""
        ...


class JobMoves:
    """Makes moves for all queues of a process. Every method raises `StoreTimeout` where the database is away.

    Args:
        database: has the jobs.
        waits: told where a slot of a group is free, and was not taken at once.
        held: counts how often groups were held back.
    """

    def __init__(self, database: QueueDatabase, waits: PostgresWaits, held: HeldCounts) -> None:
        self._database = database
        self._waits = waits
        self._held = held
        self._grouped: set[str] = set()
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
            moving = _Moving(connection, self._to_lock(batch), recovers=not self._database.away_lately)
            settled = await moving.settle([one for one in batch if isinstance(one, Settle)])
            takes = [take for one in batch if (take := _take_of(one, settled)) is not None]
            if takes:
                await moving.take(takes)
            woken = moving.woken()
            if woken:
                await self._waits.tell(connection, *(("jobs", queue, "0") for queue in woken))
        self._grouped = self._grouped - moving.plain | moving.grouped
        for queue in woken:
            self._waits.jobs_wait(queue)
        for queue, held in moving.held:
            self._held.count(queue, held)
        return [_result(one, settled, moving.found) for one in batch]

    def _to_lock(self, batch: Sequence[Move]) -> set[str]:
        """Return the targets whose row is to be locked, as far as is known before they are read."""
        takes = [take for one in batch if (take := one if isinstance(one, Take) else one.then) is not None]
        return {take.target for take in takes if take.limiter is not None or take.target in self._grouped}


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


class _Moving:
    """The moves of one transaction. `found` is what was taken, by token; `held` the groups that were held back.

    `grouped` and `plain` are the targets that were seen to have groups, and to have none. `to_lock` are those whose
    rows it needs in any case.
    """

    def __init__(self, connection: Any, to_lock: set[str], *, recovers: bool) -> None:
        self.grouped: set[str] = set()
        self.plain: set[str] = set()
        self.found: dict[str, Found] = {}
        self.held: list[tuple[str, list[bytes | int]]] = []
        self._connection = connection
        self._to_lock = to_lock
        self._recovers = recovers
        self._locks = TargetLocks(connection)
        self._changes: list[SlotChange] = []
        self._free: Counter[str] = Counter()

    def woken(self) -> list[str]:
        """Return the queues in which more groups may start a job than have, so that others are to look."""
        return [queue_of(target) for target, count in self._free.items() if count > 0]

    async def settle(self, settles: Sequence[Settle]) -> set[str]:
        """Settle; return the ids of the jobs whose lease was ours."""
        away = [one for one in settles if one.to == "away"]
        back = [one for one in settles if one.to != "away"]
        rows: list[Any] = []
        if away:
            rows += await self._connection.fetch(_REMOVE, [one.job_id for one in away], [one.token for one in away])
        if back:
            rows += await self._connection.fetch(
                _PUT_BACK,
                [one.job_id for one in back],
                [one.token for one in back],
                [one.after_s for one in back],
                [one.to == "first" for one in back],
            )
        changes = [SlotChange(target, group, True, waits) for _, target, group, waits in rows if group is not None]
        if changes:
            await self._locks.take({*self._to_lock, *(one.target for one in changes)})
            self._free.update(await changed(self._connection, self._locks, changes))
        return {row[0] for row in rows}

    async def take(self, takes: Sequence[Take]) -> None:
        """Take what there is for these."""
        by_target: _Takes = defaultdict(list)
        for take in takes:
            by_target[take.target].append(take)
        allowed = await self._through_gates(by_target)
        if not allowed:
            return
        await self._promote(list(allowed))
        leases = await self._pick({target: some for target, some in allowed.items() if target not in self.grouped})
        at_s: dict[str, float] = {}
        for target in self.grouped & allowed.keys():
            leases += await self._start(target, allowed[target], at_s)
        await _count(self._connection, [take for take, _ in leases])
        self.found.update((take.token, taken) for take, taken in leases)
        left = {target: rest for target, some in allowed.items() if (rest := self._without(some))}
        if left:
            for target, due in await self._connection.fetch(_NEXT_DUE, list(left)):
                times = [at for at in (due, at_s.get(target)) if at is not None]
                nothing = NoJob(next_at_s=min(times)) if times else NOTHING
                self.found.update((take.token, nothing) for take in left[target])

    def _without(self, takes: Sequence[Take]) -> list[Take]:
        """Return the takes that have found nothing."""
        return [take for take in takes if take.token not in self.found]

    async def _promote(self, targets: list[str]) -> None:
        """Let delayed jobs wait that are due."""
        rows = await self._connection.fetch(_PROMOTE, targets)
        changes = [SlotChange(target, group, False, True) for target, group in rows if group is not None]
        self._free.update(await changed(self._connection, self._locks, changes))

    async def _pick(self, allowed: _Takes) -> _Leases:
        """Lease the next jobs of targets without groups."""
        if not allowed:
            return []
        rest = {target: list(some) for target, some in allowed.items()}
        picked = await self._connection.fetch(_PICK, list(rest), [len(some) for some in rest.values()])
        leases = [(job_id, rest[target].pop(0), added_s) for target, job_id, added_s in picked]
        if not leases:
            return []
        starts = dict(
            await self._connection.fetch(
                _LEASE,
                [job_id for job_id, _, _ in leases],
                [take.token for _, take, _ in leases],
                [take.lock_s for _, take, _ in leases],
            )
        )
        return [(take, Taken(job_id, added_s, starts[job_id])) for job_id, take, added_s in leases]

    async def _start(self, target: str, takes: Sequence[Take], at_s: dict[str, float]) -> _Leases:
        """Lease the next jobs of a target with groups; say when a group may start a job that may not now."""
        first = takes[0]
        done = await started(
            self._connection,
            target,
            [take.token for take in takes],
            first.lock_s,
            first.group,
            recovers=self._recovers,
        )
        if done.next_at_s is not None:
            at_s[target] = done.next_at_s
        if done.held:
            self.held.append((queue_of(target), done.held))
        self._free[target] -= len(done.leases)
        return [(take, Taken(*done.leases[take.token])) for take in takes if take.token in done.leases]

    async def _through_gates(self, by_target: _Takes) -> _Takes:
        """Return the takes that may be made now; the others find nothing, until a hold or a rate limit ends."""
        await self._locks.take(self._to_lock)
        allowed: _Takes = {}
        gates = await self._connection.fetch(_GATES, list(by_target))
        for target, now_s, is_paused, held_until, window_until, window_count, has_groups in gates:
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
            (self.grouped if has_groups else self.plain).add(target)
            self.found.update((take.token, nothing) for take in some[places:])
        await self._locks.take(self.grouped & allowed.keys())
        return allowed


_WINDOW = f"""
SELECT target, {NOW}, window_until, window_count FROM toril_queues WHERE target = ANY($1::text[])"""


async def _count(connection: Any, takes: Sequence[Take]) -> None:
    """Count what was taken under a rate limit; a window begins with its first job."""
    counts: dict[str, int] = defaultdict(int)
    limiters: dict[str, Limiter] = {}
    for take in takes:
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
