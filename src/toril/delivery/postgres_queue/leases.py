"""Leases of one target's jobs, as `LeaseStore` promises them.

A job here is only the right to a delivery: its envelope, its attempts and their results are in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from toril.core.destination import LeaseRules
from toril.core.errors import LeaseLost
from toril.core.lease import Lease, Next
from toril.core.stored_job import StoredOptions
from toril.core.verdict import Complete, Fail, Retry, Snooze
from toril.delivery.postgres_queue.database import QueueDatabase
from toril.delivery.postgres_queue.group_moves import SlotChange, TargetLocks, changed
from toril.delivery.postgres_queue.moves import Found, JobMoves, Settle, Take, Taken
from toril.delivery.postgres_queue.tables import NOW, PLACE_NOW
from toril.delivery.rules.delivery import QUEUE_PREFIX

_OPTIONS = StoredOptions(b"{}")

_EXTEND = f"""
UPDATE toril_jobs AS j SET locked_until = {NOW} + $3 FROM unnest($1::text[], $2::text[]) AS given (job_id, token)
WHERE j.job_id = given.job_id AND j.token = given.token RETURNING j.job_id"""
_HAND_OVER = f"""
UPDATE toril_jobs SET locked_until = greatest(locked_until, {NOW} + $3) WHERE job_id = $1 AND token = $2
RETURNING locked_until - {NOW}"""
_LEFT = f"SELECT locked_until - {NOW} FROM toril_jobs WHERE job_id = $1 AND token = $2"
_RECOVER = f"""
UPDATE toril_jobs AS j SET token = NULL, locked_until = NULL,
    place = CASE WHEN j.job_group IS NULL THEN -{PLACE_NOW} ELSE {PLACE_NOW} END
FROM (
    SELECT job_id FROM toril_jobs WHERE target = $1 AND token IS NOT NULL AND locked_until <= {NOW}
    FOR UPDATE SKIP LOCKED
) AS lapsed WHERE j.job_id = lapsed.job_id RETURNING j.job_id, j.job_group"""
_LONGEST = f"SELECT max(locked_until) - {NOW} FROM toril_jobs WHERE target = $1 AND token IS NOT NULL"
_ADOPT = "SELECT job_id, token, added, starts FROM toril_jobs WHERE target = $1 AND token = ANY($2::text[])"


class PostgresLeaseStores:
    """A factory of the leases of each target's queue; `lock_s` is how long a lock lives."""

    def __init__(self, database: QueueDatabase, moves: JobMoves, lock_s: float) -> None:
        self._database = database
        self._moves = moves
        self._lock_s = lock_s

    def of(self, queue: str, rules: LeaseRules) -> PostgresLeases:
        """Return the leases of a queue, under the rate limit of its rules, and with its limits of groups."""
        return PostgresLeases(self._database, self._moves, queue, rules, self._lock_s)


class PostgresLeases:
    """The leases of one queue."""

    def __init__(self, database: QueueDatabase, moves: JobMoves, queue: str, rules: LeaseRules, lock_s: float) -> None:
        self._database = database
        self._moves = moves
        self._queue = queue
        self._target = queue.removeprefix(QUEUE_PREFIX)
        self._rules = rules
        self._lock_s = lock_s

    async def take(self, token: bytes) -> Next:
        """As `LeaseStore.take`."""
        return self._next(await self._moves.take(self._take(token)), token)

    async def complete(self, lease: Lease, verdict: Complete, *, fetch_next: bool) -> Next | None:
        """As `LeaseStore.complete`: the job leaves the queue."""
        return await self._settle(lease, Settle(*_held(lease), "away"), fetch_next=fetch_next)

    async def fail(self, lease: Lease, verdict: Fail, *, fetch_next: bool) -> Next | None:
        """As `LeaseStore.fail`: the job leaves the queue, and the ledger has the dead letter."""
        return await self._settle(lease, Settle(*_held(lease), "away"), fetch_next=fetch_next)

    async def retry(self, lease: Lease, verdict: Retry, *, fetch_next: bool) -> Next | None:
        """As `LeaseStore.retry`."""
        settle = Settle(*_held(lease), "back", max(0, verdict.after_ms) / 1000)
        return await self._settle(lease, settle, fetch_next=fetch_next)

    async def snooze(self, lease: Lease, verdict: Snooze, *, fetch_next: bool) -> Next | None:
        """As `LeaseStore.snooze`."""
        settle = Settle(*_held(lease), "back", max(1, verdict.after_ms) / 1000)
        return await self._settle(lease, settle, fetch_next=fetch_next)

    async def release(self, lease: Lease) -> None:
        """As `LeaseStore.release`."""
        await self._settle(lease, Settle(*_held(lease), "first"), fetch_next=False)

    async def count_stall(self, lease: Lease) -> bool:
        """As `LeaseStore.count_stall`: the ledger decides what becomes of a delivery, so no number is too many."""
        if await self.left_s(lease) is None:
            raise LeaseLost
        return False

    async def extend(self, leases: Sequence[Lease]) -> set[bytes]:
        """As `LeaseStore.extend`."""
        held = [_held(lease) for lease in leases]
        rows = await self._database.fetch(
            _EXTEND, [job_id for job_id, _ in held], [token for _, token in held], self._lock_s
        )
        kept = {row[0].encode() for row in rows}
        return {lease.job_id for lease in leases} - kept

    async def hand_over(self, lease: Lease, lock_ms: int) -> float | None:
        """As `LeaseStore.hand_over`."""
        rows = await self._database.fetch(_HAND_OVER, *_held(lease), lock_ms / 1000)
        return float(rows[0][0]) if rows else None

    async def left_s(self, lease: Lease) -> float | None:
        """As `LeaseStore.left_s`."""
        rows = await self._database.fetch(_LEFT, *_held(lease))
        return max(0.0, float(rows[0][0])) if rows else None

    async def recover_stalled(self) -> list[bytes]:
        """As `LeaseStore.recover_stalled`."""
        if self._database.away_lately:
            return []
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_RECOVER, self._target)
            changes = [SlotChange(self._target, group, True, True) for _, group in rows if group is not None]
            await changed(connection, TargetLocks(connection), changes)
        return [row[0].encode() for row in rows]

    async def recover_abandoned(self) -> tuple[list[bytes], float]:
        """As `LeaseStore.recover_abandoned`."""
        lapsed = await self.recover_stalled()
        ((longest_s,),) = await self._database.fetch(_LONGEST, self._target)
        return lapsed, 0.0 if longest_s is None else max(0.0, float(longest_s))

    async def adopt(self, tokens: Iterable[bytes]) -> list[Lease]:
        """As `LeaseStore.adopt`."""
        rows = await self._database.fetch(_ADOPT, self._target, [token.decode() for token in tokens])
        return [self._lease(Taken(job_id, added, starts), token.encode()) for job_id, token, added, starts in rows]

    async def schedule_next(self, lease: Lease) -> str | None:
        """Return None: no job here comes from a scheduler."""
        return None

    def _take(self, token: bytes) -> Take:
        return Take(self._target, token.decode(), self._lock_s, self._rules.limiter, self._rules.group)

    async def _settle(self, lease: Lease, settle: Settle, *, fetch_next: bool) -> Next | None:
        if fetch_next:
            settle = Settle(settle.job_id, settle.token, settle.to, settle.after_s, self._take(lease.token))
        found = await self._moves.settle(settle)
        return None if found is None else self._next(found, lease.token)

    def _next(self, found: Found, token: bytes) -> Next:
        return self._lease(found, token) if isinstance(found, Taken) else found

    def _lease(self, taken: Taken, token: bytes) -> Lease:
        fields = {b"timestamp": b"%d" % (taken.added_s * 1000), b"ats": b"%d" % taken.starts}
        return Lease(
            queue=self._queue,
            job_id=taken.job_id.encode(),
            token=token,
            fields=fields,
            options=_OPTIONS,
            attempts_made=0,
        )


def _held(lease: Lease) -> tuple[str, str]:
    return lease.job_id.decode(), lease.token.decode()
