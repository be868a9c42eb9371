"""One delivery as a visible pipeline: check that its ledger is ours → ask the breaker → begin in the ledger → attempt →
judge → end in the ledger → settle.

Each step in the ledger is committed before the next one is taken. While the ledger or the breaker is away or refuses,
the job is held: its lock is renewed, and it is neither attempted nor settled. Its target may be paused or its breaker
open by then, so an attempt that had to wait asks again right before its request. No outcome is judged twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from msgspec import Struct

from toril.core.destination import RandomSource
from toril.core.errors import BlobLost, BlobsUnavailable, RowRefused, StoreError, StoreUnavailable
from toril.core.lease import Lease, Next
from toril.core.outcome import ConnectFailed, Outcome
from toril.core.verdict import GONE, DeadLetter, Settlement, Snooze, Verdict
from toril.delivery.breaker_gate import BreakerGate, GatedAttempt
from toril.delivery.journal import Journal
from toril.delivery.ledger_fleet import LedgerFleet
from toril.delivery.rules.breaker import AttemptAllowed, AttemptBlocked, BreakerDecision
from toril.delivery.rules.changes import Begun, DeadLettered, End, PutBack, Refused
from toril.delivery.rules.destination import Target
from toril.delivery.rules.enqueue import unsendable
from toril.delivery.rules.journal_entry import entry_of
from toril.engine.executor import Executor, OnAttempt
from toril.engine.ports import LeaseStore, Outbound
from toril.engine.settler import Settler
from toril.engine.slot import Slot

log = structlog.get_logger(__name__)

T = TypeVar("T")

BODY_LOST = "body_lost"
"""The reason of a dead letter whose body is missing in the blob store."""

NOT_SENDABLE = "invalid_envelope"
"""The reason of a dead letter whose row holds no envelope that could have been posted."""

_LATE_S = 0.25
"""After how long between its lease and its request an attempt asks once more whether it may be made."""
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_TRIES_A_MINUTE = 30
_BODIES_AWAY_S = 5.0


def _ignore(lease: Lease, outcome: Outcome, verdict: Verdict) -> None:
    pass


class AttemptServices(Struct, frozen=True):
    """What the executor of a target uses for its attempts. `told` is called with each outcome and verdict."""

    journal: Journal
    gate: BreakerGate
    fleet: LedgerFleet
    chance: RandomSource
    told: OnAttempt = _ignore


class DeliveryExecutor(Executor):
    """Takes a lease of a target's queue through its attempt, its record and its settlement."""

    __slots__ = ("_fleet", "_gate", "_journal", "_target")

    def __init__(
        self, target: Target, store: LeaseStore, outbound: Outbound, settler: Settler, services: AttemptServices
    ) -> None:
        super().__init__(target, store, outbound, settler, services.chance, services.told)
        self._target = target
        self._journal = services.journal
        self._gate = services.gate
        self._fleet = services.fleet

    async def execute(self, slot: Slot, lease: Lease, may_lease: Callable[[], bool]) -> Next | None:
        """Work on one lease; return as `Executor.execute`."""
        elsewhere = self._fleet.elsewhere(lease, self._target.spec.name)
        if elsewhere is not None:
            return await self._settler.settle(self._store, slot, lease, elsewhere, may_lease)
        token, leased_at = self._journal.token(lease), lease.renewed_at
        admission = await self._pass(slot, lease, token)
        if admission is None:
            return None
        if not isinstance(admission, AttemptAllowed):
            await self.release(lease)
            return None
        verdict: Settlement | None = None
        told = not admission.probe
        try:
            begun = await self._begin(slot, lease, token)
            if isinstance(begun, Begun):
                attempt = GatedAttempt(token, begun.delivery.job_id, admission.probe)
                verdict, told = await self._make(slot, lease, begun, attempt, leased_at)
            elif isinstance(begun, Refused) and begun.delivery is None:
                verdict = self._fleet.rowless(lease, self._target.spec.name) or GONE
            elif isinstance(begun, Refused):
                verdict = GONE  # it has finished already: its job leaves the queue
        finally:
            if not told:
                await self._gate.leave(token)
        if verdict is None:
            return None
        return await self._settler.settle(self._store, slot, lease, verdict, may_lease)

    async def release(self, lease: Lease) -> None:
        """Give a job back to the head of its queue.

        An attempt that has begun is recorded first: with its end if that is known, else as given back.
        """
        entry = entry_of(lease)
        if entry is not None:
            change = entry.ending or self._journal.given_back(entry.begun)
            try:
                await self._journal.end(change, GONE)
            except StoreError as exc:
                # The next worker to take the job finds the attempt under way, and records it as lost.
                log.debug("journal.not_given_back", queue=lease.queue, error=exc.message)
            lease.entry = None
        await super().release(lease)

    async def _make(
        self, slot: Slot, lease: Lease, begun: Begun, attempt: GatedAttempt, leased_at: float
    ) -> tuple[Settlement | None, bool]:
        """Make the attempt; return the job's settlement (None: write nothing), and whether the breaker was told."""
        fault = unsendable(begun.delivery, begun.envelope, known=self._target.knows(begun.envelope))
        if fault is not None:
            return await self._never(slot, lease, begun, NOT_SENDABLE, fault), not attempt.probe
        try:
            await self._journal.prepare(lease, begun)
        except (BlobsUnavailable, BlobLost) as exc:
            return await self._unmade(slot, lease, begun, exc), not attempt.probe
        is_late = asyncio.get_running_loop().time() - leased_at > _LATE_S
        if attempt.probe or is_late:
            admission = await self._pass(slot, lease, attempt.name)
            if not isinstance(admission, AttemptAllowed):
                # What came before took so long that its place has gone to another probe, or the breaker is open now.
                return None if admission is None else await self._too_late(slot, lease, begun, admission), True
            attempt = GatedAttempt(attempt.name, attempt.delivery, admission.probe)
        if is_late:
            paused = await self._held(slot, lease, self._gate.paused, "pause.unknown")
            if paused is not False:
                return None if paused is None else await self._paused(slot, lease, begun), not attempt.probe
            if await self._held(slot, lease, lambda: self._store.extend([lease]), "lease.unknown") != set():
                return None, not attempt.probe  # another worker may have the job by now
        # It may just have been cancelled: the ledger has that, and nothing is sent.
        outcome = None if lease.lost else await self._attempt(slot, lease)
        if outcome is None:
            return None, not attempt.probe
        if isinstance(outcome, ConnectFailed) and outcome.exhausted:
            return await self._not_made(slot, lease, begun, outcome), not attempt.probe
        verdict = self._target.judge(lease, outcome, self._chance)
        self._note(lease, outcome, verdict)
        self._on_attempt(lease, outcome, verdict)
        await self._gate.tell(attempt, outcome)
        change = await self._journal.ending(begun, outcome, verdict)
        return await self._end(slot, lease, change, verdict), True

    async def _too_late(self, slot: Slot, lease: Lease, begun: Begun, blocked: AttemptBlocked) -> Settlement | None:
        """Put back a delivery that may not be attempted now, after it had waited; no attempt is spent."""
        return await self._put_back(slot, lease, begun, "no attempt may be made now", for_s=blocked.for_s)

    async def _paused(self, slot: Slot, lease: Lease, begun: Begun) -> Settlement | None:
        """Put back a delivery whose target was paused before its request was made; no attempt is spent."""
        return await self._put_back(slot, lease, begun, "its target is paused")

    async def _not_made(self, slot: Slot, lease: Lease, begun: Begun, outcome: ConnectFailed) -> Settlement | None:
        """Put back a delivery for which this machine had no socket or descriptor left; no attempt is spent."""
        if not await self._rest(slot, lease, outcome):
            return None
        error = f"{outcome.code}: {outcome.detail}"
        return await self._put_back(slot, lease, begun, "nothing left to connect with", error)

    async def _unmade(
        self, slot: Slot, lease: Lease, begun: Begun, exc: BlobsUnavailable | BlobLost
    ) -> Settlement | None:
        """Put back a delivery whose body cannot be read now; dead-letter one whose body is gone."""
        if isinstance(exc, BlobLost):
            return await self._never(slot, lease, begun, BODY_LOST, exc.message)
        log.warning("delivery.no_body", queue=lease.queue, job_id=begun.delivery.job_id, error=exc.message)
        return await self._put_back(slot, lease, begun, "its body cannot be read", exc.message, for_s=_BODIES_AWAY_S)

    async def _put_back(
        self,
        slot: Slot,
        lease: Lease,
        begun: Begun,
        reason: str,
        error: str | None = None,
        *,
        for_s: float | None = None,
    ) -> Settlement | None:
        """Put back a delivery whose request was not made, at once or for so long from the beginning of its attempt."""
        again_at_s = None if for_s is None else begun.delivery.attempt_began_at_s + for_s
        change = self._journal.unmade(begun, PutBack(again_at_s, reason), error or reason)
        return await self._end(slot, lease, change, Snooze(max(1, round((for_s or 0.0) * 1000)), error or reason))

    async def _never(self, slot: Slot, lease: Lease, begun: Begun, reason: str, error: str) -> Settlement | None:
        """Dead-letter a delivery that no request can be made from."""
        log.warning("delivery.unsendable", queue=lease.queue, job_id=begun.delivery.job_id, reason=reason, error=error)
        change = self._journal.unmade(begun, DeadLettered(reason), error)
        return await self._end(slot, lease, change, DeadLetter(reason, error))

    async def _pass(self, slot: Slot, lease: Lease, token: str) -> BreakerDecision | None:
        """Ask the breaker, however long that takes; return None when the lease was lost or given back meanwhile.

        A job that was given back instead would be taken again at once, and Redis asked again and again.
        """
        return await self._held(slot, lease, lambda: self._gate.admit(token), "breaker.unknown")

    async def _begin(self, slot: Slot, lease: Lease, token: str) -> Begun | Refused | None:
        """Begin in the ledger, however long that takes; return None when the lease was lost or given back meanwhile."""
        return await self._held(slot, lease, lambda: self._journal.begin(lease, token), "ledger.unavailable")

    async def _end(self, slot: Slot, lease: Lease, change: End, verdict: Settlement) -> Settlement | None:
        """Record the end in the ledger, however long that takes, and return the settlement of the job.

        None means that nothing is to be written to the queue, as the lease was lost or given back. A known end is
        recorded also after the lease was lost: unless another attempt has begun since, none has to be made again.
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
        """Make an idempotent call to a store until it answers; return None when the lease was lost or given back.

        The job is held meanwhile: its lock is renewed, and no attempt is spent. A store that refuses is asked as seldom
        as one that is away: an operator may repair it, and what is known until then is not lost. With `known`, the call
        records the known end of an attempt, and goes on after the lease was lost, until the worker ends.
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
                # The first interruption may mean that the lease was lost; a second one, that the worker ends.
                if was_lost or not (known and lease.lost):
                    return None
        return None

    def _complain(self, complaint: str, lease: Lease, tries: int, exc: StoreError) -> None:
        """Log the first failure, and then about one a minute."""
        if tries % _TRIES_A_MINUTE == 1:
            tell = log.warning if isinstance(exc, StoreUnavailable) else log.error
            tell(complaint, queue=lease.queue, hint="the job is held", error=exc.message)
