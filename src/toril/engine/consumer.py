"""Leases jobs of one queue for one destination, as many at once as it allows.

A consumer is a small state machine, not a task: an idle one costs a wait on a marker and nothing else. When there are
jobs it starts slots; a slot takes a job, executes it, and settling it brings the next one. A consumer must never decide
what becomes of a job (the destination judges) nor write it (the settler does).

What its leasing side may be doing:

    watching       no job waits; the queue's marker wakes it
    looking        slots are taking jobs; their number doubles while there are more jobs and free slots
    full           every slot has a job; settling brings the next one
    rate limited   the queue's rate limit is used up; it looks again when that ends, and no marker wakes it before
    gated          its gate lets no job begin (this process sheds load, say); it asks again after a moment
    stopped        it leases nothing; jobs in flight go on, and a lease that still arrives is given back
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from msgspec import Struct

from toril.core.destination import Destination
from toril.core.errors import ConnectionLost, StoreError, StoreTimeout
from toril.core.lease import Lease, NoJob
from toril.engine.executor import Executor
from toril.engine.next_look import NextLook
from toril.engine.ports import LeaseStore
from toril.engine.shared_services import SharedServices
from toril.engine.slot import Slot

log = structlog.get_logger(__name__)

_RETRY_S = 0.25

Gate = Callable[[], bool]
"""Asked before each lease: True if a job may begin now."""


def _open() -> bool:
    return True


class Doubt(Struct, frozen=True):
    """Since when Redis may have leased a job under a token, and the lease that could not be settled under it."""

    since: float
    unsettled: Lease | None = None

    def holds_unsettled(self, lease: Lease) -> bool:
        """Return True for the lease that could not be settled: its attempt was made."""
        before = self.unsettled
        return before is not None and (before.job_id, before.fields.get(b"ats")) == (
            lease.job_id,
            lease.fields.get(b"ats"),
        )


class Consumer:
    """Works one queue for one destination.

    Args:
        destination: where the jobs go.
        limit: this process's share of the destination's concurrency.
        store: leases and settles the queue's jobs.
        executor: one job's pipeline.
        shared: the services that all consumers share.
        gate: lets jobs begin; after a refusal it is asked again a moment later.
    """

    __slots__ = (
        "_executor", "_gate", "_idle", "_limit", "_look_again", "_looking", "_next_look", "_shared", "_stopped",
        "_tokens", "_waiting", "_watching", "answered_at", "destination", "in_doubt", "queue", "slots", "store",
    )  # fmt: skip

    def __init__(
        self,
        destination: Destination,
        limit: int,
        store: LeaseStore,
        executor: Executor,
        shared: SharedServices,
        gate: Gate = _open,
    ) -> None:
        self.destination = destination
        self.queue = destination.queue
        self.store = store
        self.slots: set[Slot] = set()
        # Tokens of calls whose answer was lost: Redis may have leased a job under them.
        self.in_doubt: dict[bytes, Doubt] = {}
        self.answered_at = 0.0
        self._limit = limit
        self._executor = executor
        self._shared = shared
        self._gate = gate
        self._next_look = NextLook(self._look_or_pass_on)
        # Tokens of slots that have ended, for the next ones.
        self._tokens: list[bytes] = []
        # Leases adopted while every slot had a job: held, renewed, and executed when a slot is free.
        self._waiting: list[Lease] = []
        self._watching = False
        self._looking = 0
        self._look_again = False
        self._stopped = False
        self._idle: asyncio.Event | None = None

    @property
    def stopped(self) -> bool:
        """True once it leases nothing."""
        return self._stopped

    @property
    def full(self) -> bool:
        """True while every slot is taken."""
        return len(self.slots) >= self._limit

    @property
    def in_flight(self) -> list[Lease]:
        """The leases held now."""
        return [*self._waiting, *(slot.lease for slot in self.slots if slot.lease is not None)]

    def heard_since(self, before: float) -> bool:
        """Return True if Redis answered a look after this time, or there is a reason not to look."""
        return self.answered_at >= before or self.full or self._next_look.blocked

    def expect(self, at_s: float) -> None:
        """Look at the wall-clock time of the next delayed job, unless an earlier look is planned."""
        self._next_look.plan(at_s - self._shared.now(), at_s)

    def look(self) -> None:
        """Look for jobs now, unless it is stopped, rate limited, gated, full, or looking already."""
        if self._stopped or self._next_look.blocked:
            return
        if self._looking or self.full:
            # A look under way, or the one that a settlement makes, may have been answered before the job came that
            # we are told of now: look again when it ends with nothing.
            self._look_again = True
            return
        if self._may_begin():
            self._spawn()

    def stop(self) -> None:
        """Lease and begin nothing from now on.

        Jobs in flight go on to their end; those that their endpoint settles later give up their slot. A lease that is
        on its way, or waits for a slot, is given back.
        """
        job_at_s = self._next_look.job_at_s
        knew_of_jobs = self._end_leasing()
        for slot in self.slots:
            slot.dismiss()
        if knew_of_jobs:
            # It learned of delayed jobs from a marker, which is gone: another consumer has to know.
            self._shared.waits.pass_on(self.queue, job_at_s)
        if not self.slots:
            self._executor.close()

    def _end_leasing(self) -> bool:
        """Stop waiting for jobs; return whether another look was planned."""
        self._stopped = True
        self._shared.waits.unwatch(self.queue, self._wake)
        self._watching = False
        return self._next_look.end()

    async def drained(self) -> None:
        """Wait until no job is in flight."""
        while self.slots:
            if self._idle is None:
                self._idle = asyncio.Event()
            await self._idle.wait()

    async def abandon(self, *, stalled: bool = False) -> None:
        """Abort the attempts in flight after a stop, and return their jobs without spending an attempt.

        `stalled`: count a stall of each job whose attempt is broken off.
        """
        for slot in list(self.slots):
            slot.stalled |= stalled
            slot.break_off()
        while self._waiting:
            self._place(self._waiting.pop())
        await self.drained()

    def lose(self, lease: Lease) -> None:
        """Abort the attempt of a lease that is lost, and write nothing; another lease of the same job goes on."""
        if self._let_go([held for held in self.in_flight if held is lease]):
            self._shared.measures.lost(self.queue)
            log.warning("lease.lost", queue=self.queue, job_id=lease.job_id.decode(errors="replace"))

    def cancel(self, job_id: bytes) -> bool:
        """Abort the attempt of a cancelled job and write nothing; return whether the job was here."""
        here = self._let_go([lease for lease in self.in_flight if lease.job_id == job_id])
        if here:
            log.info("attempt.cancelled", queue=self.queue, job_id=job_id.decode(errors="replace"))
        return here

    def limit_lifted(self) -> None:
        """Look again now if it waits for the end of a rate limit, which was removed."""
        self._next_look.lift_rate_limit()

    def _let_go(self, leases: list[Lease]) -> bool:
        # Not the slots of leases that were lost before: those go on only to record what is known of their attempt.
        found = [lease for lease in leases if not lease.lost]
        for lease in found:
            lease.lost = True
        self._waiting = [lease for lease in self._waiting if not lease.lost]
        for slot in self.slots:
            if slot.lease in found:
                slot.break_off()
        return bool(found)

    def adopt(self, lease: Lease) -> None:
        """Execute a lease that was found to be ours: now, or when a slot is free.

        One whose attempt was made already is given back: a start of a job makes one request.
        """
        # How old its lock is is not known: at least as old as the doubt, so that it is renewed soon.
        doubt = self.in_doubt.pop(lease.token, None) or Doubt(asyncio.get_running_loop().time())
        lease.renewed_at = doubt.since
        if doubt.holds_unsettled(lease):
            self._shared.tasks.create_task(self._executor.release(lease))
            return
        self._waiting.append(lease)
        self._place_waiting()

    def _place_waiting(self) -> None:
        while self._waiting and not self.full:
            self._place(self._waiting.pop(0))

    def _place(self, lease: Lease) -> None:
        slot = Slot(lease.token)
        self.slots.add(slot)
        slot.task = self._shared.tasks.create_task(self._run(slot, lease))

    def _wake(self, at_s: float) -> None:
        """Look for jobs after a marker was popped: they wait now (0), or from `at_s` on."""
        self._watching = False
        ahead_s = at_s - self._shared.now()
        if ahead_s > 0:
            self._next_look.plan(ahead_s, at_s)
            self._watch()
        else:
            self._look_or_pass_on()

    def _look_or_pass_on(self) -> None:
        """Look for jobs that wait; if every slot is taken, let another consumer look."""
        if self.full and not self._looking:
            self._shared.waits.pass_on(self.queue, 0.0)
        self.look()

    def _spawn(self) -> None:
        slot = Slot(self._tokens.pop() if self._tokens else self._shared.slot_token(self.queue))
        self.slots.add(slot)
        self._looking += 1
        slot.task = self._shared.tasks.create_task(self._run(slot, None))

    async def _run(self, slot: Slot, lease: Lease | None) -> None:
        try:
            if lease is None:
                lease = await self._take(slot)
            while lease is not None:
                lease = await self._work(slot, lease)
        except asyncio.CancelledError:
            self._end_leasing()  # the process is going down; a broken-off attempt does not come this far
            raise
        except Exception:
            # A task boundary: one broken job must not take the other consumers down.
            log.exception("slot.failed", queue=self.queue)
        finally:
            self._leave(slot)

    async def _work(self, slot: Slot, lease: Lease) -> Lease | None:
        """Execute one lease; return the next one, if there is one."""
        slot.lease = lease
        if self._shared.cancelled and await self._is_cancelled(lease):
            return None
        if self._stopped:
            await self._executor.release(lease)
            return None
        found = await self._executor.execute(slot, lease, self._may_lease)
        slot.lease = None
        if isinstance(found, Lease):
            return found
        if found is not None:
            self._found_none(found)
            return None
        if slot.doubtful:
            self._doubt(slot, lease)
        elif slot.spent or lease.unanswered:
            slot.token = self._shared.slot_token(self.queue)
        slot.spent = False
        if not self._may_lease():
            return None
        self._looking += 1
        return await self._take(slot)

    async def _is_cancelled(self, lease: Lease) -> bool:
        """Return True if the job was cancelled while the answer that leases it was on its way."""
        if not self._shared.cancelled.has(self.queue, lease.job_id):
            return False
        try:
            return lease.job_id in await self.store.extend([lease])
        except StoreError:
            return False

    async def _take(self, slot: Slot) -> Lease | None:
        """Take the next job; the caller has counted this look."""
        asked_at = asyncio.get_running_loop().time()
        try:
            found = await self.store.take(slot.token)
        except StoreError as exc:
            log.debug("consumer.take_failed", queue=self.queue, error=exc.message)
            if isinstance(exc, (ConnectionLost, StoreTimeout)):
                self._doubt(slot)
            self._next_look.plan(_RETRY_S)
            return None
        finally:
            self._looking -= 1
        self.answered_at = asyncio.get_running_loop().time()
        if isinstance(found, NoJob):
            self._found_none(found)
            return None
        self._shared.presence.active(self.queue)
        self._grow()
        # Its lock lives from some moment after the question on; the answer may have come much later.
        found.renewed_at = asked_at
        return found

    def _doubt(self, slot: Slot, unsettled: Lease | None = None) -> None:
        """Put the slot's token in doubt, as Redis may have leased a job under it; the slot gets another one."""
        self.in_doubt[slot.token] = Doubt(asyncio.get_running_loop().time(), unsettled)
        slot.token = self._shared.slot_token(self.queue)
        slot.doubtful = False

    def _grow(self) -> None:
        """Double the number of slots, because there was a job: a burst is met in logarithmic steps."""
        if self._stopped or self._next_look.blocked or self._looking:
            return
        for _ in range(min(len(self.slots), self._limit - len(self.slots))):
            if not self._may_begin():
                return
            self._spawn()

    def _found_none(self, found: NoJob) -> None:
        """Plan the next look by why there was no job."""
        if found.retry_in_s > 0:
            self._next_look.block_for_rate_limit(found.retry_in_s)
        elif found.next_at_s > 0:
            self._next_look.plan(found.next_at_s - self._shared.now(), found.next_at_s)

    def _leave(self, slot: Slot) -> None:
        """End a slot that has found no job."""
        slot.lease = None
        self.slots.discard(slot)
        self._tokens.append(slot.token)
        self._place_waiting()
        if self._stopped:
            if not self.slots:
                self._executor.close()
        elif self._look_again and not self._looking:
            self._look_again = False
            self.look()
        else:
            self._watch()
        if not self.slots and self._idle is not None:
            self._idle.set()
            self._idle = None

    def _watch(self) -> None:
        if not (self._watching or self._next_look.blocked or self._looking or self.full):
            self._watching = True
            self._shared.waits.watch(self.queue, self._wake)

    def _may_lease(self) -> bool:
        """Return True if a slot that is done may take another job; leases held already come first."""
        return not (self._stopped or self._waiting) and self._may_begin()

    def _may_begin(self) -> bool:
        """Ask the gate; plan the next look if it refuses."""
        if self._gate():
            return True
        self._next_look.block_for_gate()
        return False
