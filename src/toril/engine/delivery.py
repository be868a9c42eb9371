"""One delivery as a visible pipeline: see that it is ours → pass the breaker → begin in the ledger → attempt → judge →
end in the ledger → settle.

Each step in the ledger is committed before the next thing happens. While the ledger or the breaker is away or refuses,
a job is held: its lock is renewed, it is neither attempted nor settled, and nothing is judged twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from msgspec import Struct

from toril.core.breaker import Admission, Go
from toril.core.delivery import Begun, DeadLettered, End, PutBack, Refused
from toril.core.destinations.base import Chance
from toril.core.destinations.target import Target
from toril.core.enqueue import unsendable
from toril.core.errors import BlobLost, BlobsUnavailable, RowRefused, StoreError, StoreUnavailable
from toril.core.journal_entry import entry_of
from toril.core.lease import Lease, Next
from toril.core.outcome import ConnectFailed, Outcome
from toril.core.ports.calls import Outbound
from toril.core.ports.work import LeaseStore
from toril.core.verdict import Complete, DeadLetter, Settlement, Snooze, Verdict
from toril.engine.admission import BreakerGate
from toril.engine.executor import Executor, Told
from toril.engine.journal import Journal
from toril.engine.ledger_fleet import LedgerFleet
from toril.engine.settler import Settler
from toril.engine.slot import Slot

log = structlog.get_logger(__name__)

T = TypeVar("T")

BODY_LOST = "body_lost"
"""The reason of what is dead-lettered because its body is gone from the blob store."""

NOT_SENDABLE = "invalid_envelope"
"""The reason of what is dead-lettered because the ledger's row holds no envelope that could have been posted."""

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_TRIES_A_MINUTE = 30
_BODIES_AWAY_MS = 5000
_GONE = Complete(b"null")


def _nobody(lease: Lease, outcome: Outcome, verdict: Verdict) -> None:
    pass


class Books(Struct, frozen=True):
    """What one target's executor asks before and tells after each attempt, its chance, and who else hears of it."""

    journal: Journal
    gate: BreakerGate
    fleet: LedgerFleet
    chance: Chance
    told: Told = _nobody


class DeliveryExecutor(Executor):
    """Takes a lease of a target's queue through its attempt, its record and its settlement."""

    __slots__ = ("_fleet", "_gate", "_journal", "_target")

    def __init__(self, target: Target, store: LeaseStore, outbound: Outbound, settler: Settler, books: Books) -> None:
        super().__init__(target, store, outbound, settler, books.chance, books.told)
        self._target = target
        self._journal = books.journal
        self._gate = books.gate
        self._fleet = books.fleet

    async def execute(self, slot: Slot, lease: Lease, may_lease: Callable[[], bool]) -> Next | None:
        """Work on one lease; returns as `Executor.execute`."""
        elsewhere = self._fleet.elsewhere(lease, self._target.spec.name)
        if elsewhere is not None:
            return await self._settler.settle(self._store, slot, lease, elsewhere, may_lease)
        token = self._journal.token(lease)
        admission = await self._pass(slot, lease, token)
        if admission is None:
            return None
        if not isinstance(admission, Go):
            await self.release(lease)
            return None
        verdict: Settlement | None = None
        told = not admission.probe
        try:
            begun = await self._begin(slot, lease, token)
            if isinstance(begun, Begun):
                verdict, told = await self._make(slot, lease, begun, token, as_probe=admission.probe)
            elif isinstance(begun, Refused) and begun.delivery is None:
                verdict = self._fleet.rowless(lease, self._target.spec.name) or _GONE
            elif isinstance(begun, Refused):
                verdict = _GONE  # over already: its job leaves the queue
        finally:
            if not told:
                await self._gate.leave(token)
        if verdict is None:
            return None
        return await self._settler.settle(self._store, slot, lease, verdict, may_lease)

    async def release(self, lease: Lease) -> None:
        """Give a job back to the head of its queue. An attempt that has begun is recorded first, as it ended if that is
        known, else as given back.
        """
        entry = entry_of(lease)
        if entry is not None:
            change = entry.ending or self._journal.given_back(entry.begun)
            try:
                await self._journal.end(change, _GONE)
            except StoreError as exc:
                # Whoever takes the job next finds the attempt under way, and records it as lost.
                log.debug("journal.not_given_back", queue=lease.queue, error=exc.message)
            lease.entry = None
        await super().release(lease)

    async def _make(
        self, slot: Slot, lease: Lease, begun: Begun, token: str, *, as_probe: bool
    ) -> tuple[Settlement | None, bool]:
        """The attempt; what the job comes to (None: nothing is to be written), and whether the breaker was told."""
        fault = unsendable(begun.delivery, begun.envelope)
        if fault is not None:
            return await self._never(slot, lease, begun, NOT_SENDABLE, fault), not as_probe
        try:
            await self._journal.prepare(lease, begun)
        except (BlobsUnavailable, BlobLost) as exc:
            return await self._unmade(slot, lease, begun, exc), not as_probe
        # Cancelled in this very moment: the ledger knows, and nothing is sent.
        outcome = None if lease.lost else await self._attempt(slot, lease)
        if outcome is None:
            return None, not as_probe
        if isinstance(outcome, ConnectFailed) and outcome.exhausted:
            return await self._not_made(slot, lease, begun, outcome), not as_probe
        verdict = self._target.judge(lease, outcome, self._chance)
        self._note(lease, outcome, verdict)
        self._told(lease, outcome, verdict)
        await self._gate.tell(token, outcome, as_probe=as_probe)
        change = await self._journal.ending(begun, outcome, verdict)
        return await self._end(slot, lease, change, verdict), True

    async def _not_made(self, slot: Slot, lease: Lease, begun: Begun, outcome: ConnectFailed) -> Settlement | None:
        """Nothing was left to connect with: later, with no attempt spent."""
        if not await self._room_again(slot, lease, outcome):
            return None
        error = f"{outcome.code}: {outcome.detail}"
        started_at_s = begun.delivery.started_at_s or begun.delivery.updated_at_s
        change = self._journal.unmade(begun, PutBack(reason="nothing left to connect with"), error, started_at_s)
        return await self._end(slot, lease, change, Snooze(1, error))

    async def _unmade(
        self, slot: Slot, lease: Lease, begun: Begun, exc: BlobsUnavailable | BlobLost
    ) -> Settlement | None:
        """The body cannot be read: later, if the store is away; never, if it is gone."""
        if isinstance(exc, BlobLost):
            return await self._never(slot, lease, begun, BODY_LOST, exc.message)
        started_at_s = begun.delivery.started_at_s or begun.delivery.updated_at_s
        log.warning("delivery.no_body", queue=lease.queue, job_id=begun.delivery.job_id, error=exc.message)
        again_at_s = started_at_s + _BODIES_AWAY_MS / 1000
        change = self._journal.unmade(begun, PutBack(again_at_s, "its body cannot be read"), exc.message, started_at_s)
        return await self._end(slot, lease, change, Snooze(_BODIES_AWAY_MS, exc.message))

    async def _never(self, slot: Slot, lease: Lease, begun: Begun, reason: str, error: str) -> Settlement | None:
        """Dead-letter a delivery of which no request can be made."""
        started_at_s = begun.delivery.started_at_s or begun.delivery.updated_at_s
        log.warning("delivery.unsendable", queue=lease.queue, job_id=begun.delivery.job_id, reason=reason, error=error)
        change = self._journal.unmade(begun, DeadLettered(reason), error, started_at_s)
        return await self._end(slot, lease, change, DeadLetter(reason, error))

    async def _pass(self, slot: Slot, lease: Lease, token: str) -> Admission | None:
        """Ask the breaker, however long that takes; None when the lease was lost or given back meanwhile.

        Given back at once, the job would be taken again at once: what Redis refuses it would refuse at its own pace.
        """
        return await self._held(slot, lease, lambda: self._gate.admit(token), "breaker.unknown")

    async def _begin(self, slot: Slot, lease: Lease, token: str) -> Begun | Refused | None:
        """Begin in the ledger, however long that takes; None when the lease was lost or given back meanwhile."""
        return await self._held(slot, lease, lambda: self._journal.begin(lease, token), "ledger.unavailable")

    async def _end(self, slot: Slot, lease: Lease, change: End, verdict: Settlement) -> Settlement | None:
        """Record in the ledger, however long that takes, and say what the job comes to.

        None: nothing is to be written to the queue, as the lease was lost or given back. What is known of an attempt is
        recorded also when its lease was lost meanwhile: if none has begun since, it need not be made again.
        """
        entry = entry_of(lease)
        if entry is not None:
            entry.ending = change

        async def write() -> tuple[Settlement | None]:
            nonlocal change
            try:
                return (await self._journal.end(change, verdict),)
            except RowRefused:
                change = self._journal.without_answer(change)
                raise

        ended = await self._held(slot, lease, write, "ledger.unavailable", known=True)
        if ended is None:
            return None
        lease.entry = None
        if lease.lost:
            return None
        if ended[0] is None:
            await self.release(lease)
        return ended[0]

    async def _held(
        self, slot: Slot, lease: Lease, ask: Callable[[], Awaitable[T]], complaint: str, *, known: bool = False
    ) -> T | None:
        """Ask something idempotent of a store until it answers; None when the lease was lost or given back meanwhile.

        The job is held: its lock is renewed, and no attempt is spent. A store that refuses is asked as seldom as one
        that is away: a person may mend it, and what is known until then is not lost. What is `known` of an attempt is
        told also with a lost lease, until the worker ends.
        """
        tries = 0
        while known or not lease.lost:
            was_lost = lease.lost
            try:
                return await ask()
            except StoreError as exc:
                tries += 1
                self._complain(complaint, lease, tries, exc)
                pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(tries - 1, 10))
                if await self._until_broken_off(slot, lease, asyncio.sleep(pause_s, True)) is not None:
                    continue
                # The first time it may be because the lease was lost; after that, the worker ends.
                if was_lost or not (known and lease.lost):
                    return None
        return None

    def _complain(self, complaint: str, lease: Lease, tries: int, exc: StoreError) -> None:
        """Log the first failure, and then about one a minute."""
        if tries % _TRIES_A_MINUTE == 1:
            tell = log.warning if isinstance(exc, StoreUnavailable) else log.error
            tell(complaint, queue=lease.queue, hint="the job is held", error=exc.message)
