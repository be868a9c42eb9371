"""Leases jobs of one queue for one destination, as many at once as it allows.

A consumer is a small state machine, not a task: idle, it costs a wait on a marker and nothing else. When work
shows up it starts slots; a slot takes a job, executes it, and gets the next one with the settling of the last.
It must never decide what becomes of a job (the destination judges) nor write it (the settler does).

What its leasing side may be doing:

    watching   nothing is waiting; the queue's marker wakes us
    looking    slots are taking jobs; their number doubles while there are more jobs and free slots
    full       every slot has a job; settling brings the next one
    limited    a rate limit says when to look again, or something else goes first; nothing wakes us before
    stopped    no new leases; what is in flight goes on, and a lease that comes all the same is given back
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from toril.core.destinations.base import Destination
from toril.core.errors import ConnectionLost, StoreError, StoreTimeout
from toril.core.lease import Lease, NoJob
from toril.core.lock_tokens import LockTokens
from toril.core.ports.shared import Now
from toril.core.ports.work import LeaseStore, Presence
from toril.engine.accept_first import PAUSE_S
from toril.engine.executor import Executor
from toril.engine.measures import UNMEASURED, Measures
from toril.engine.shared_waits import SharedWaits
from toril.engine.slot import Slot

log = structlog.get_logger(__name__)

_RETRY_S = 0.25
_LONGEST_TIMER_S = 3600.0
_LONGEST_LIMIT_S = 30.0
_ON_ITS_WAY_S = 5.0
_MOST_CANCELLED = 1000


def _always() -> bool:
    return True


class Surroundings:
    """What every consumer of a process shares."""

    __slots__ = ("_count", "_id", "cancelled", "measures", "now", "presence", "tasks", "tokens", "waits")

    def __init__(
        self,
        *,
        tasks: asyncio.TaskGroup,
        waits: SharedWaits,
        presence: Presence,
        now: Now,
        measures: Measures = UNMEASURED,
        tokens: LockTokens,
    ) -> None:
        self.tasks = tasks
        self.waits = waits
        self.presence = presence
        self.now = now
        self.measures = measures
        self.tokens = tokens
        self._id = tokens.instance_id
        self._count = 0
        # Cancelled jobs that nobody here was known to have, and when: their lease may still be on its way.
        self.cancelled: dict[tuple[str, bytes], float] = {}

    def note_cancelled(self, queue: str, job_id: bytes) -> None:
        """A job was cancelled that nobody here has, as far as is known."""
        now = asyncio.get_running_loop().time()
        self.cancelled[queue, job_id] = now
        for key, since in list(self.cancelled.items()):
            if since > now - _ON_ITS_WAY_S and len(self.cancelled) <= _MOST_CANCELLED:
                break
            del self.cancelled[key]

    def was_cancelled(self, queue: str, job_id: bytes) -> bool:
        """Whether that was noted a moment ago."""
        since = self.cancelled.get((queue, job_id))
        return since is not None and since > asyncio.get_running_loop().time() - _ON_ITS_WAY_S

    def token(self, queue: str) -> bytes:
        """A lock token that no other slot of any process has, in BullMQ's form `uuid:n`, and signed."""
        self._count += 1
        return self.tokens.made(queue, f"{self._id}:{self._count}")


class Consumer:
    """Works one queue for one destination.

    Args:
        destination: where the jobs go.
        limit: this process's share of the destination's concurrency.
        store: leases and settles the queue's jobs.
        executor: one job's pipeline.
        around: what all consumers share.
        may_begin: asked before each lease; where it says no, it is asked again a moment later.
    """

    __slots__ = (
        "_again", "_around", "_executor", "_idle", "_limit", "_limited", "_looking", "_may_begin",
        "_next_at_s", "_stopped", "_timer", "_tokens", "_waiting", "_watching", "answered_at", "destination",
        "in_doubt", "queue", "slots", "store",
    )  # fmt: skip

    def __init__(
        self,
        destination: Destination,
        limit: int,
        store: LeaseStore,
        executor: Executor,
        around: Surroundings,
        may_begin: Callable[[], bool] = _always,
    ) -> None:
        self.destination = destination
        self.queue = destination.queue
        self.store = store
        self.slots: set[Slot] = set()
        # Tokens of calls whose answer got lost, and when: a job may be leased by them without anybody knowing.
        self.in_doubt: dict[bytes, float] = {}
        self.answered_at = 0.0
        self._limit = limit
        self._executor = executor
        self._around = around
        self._may_begin = may_begin
        self._tokens: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        # Adopted while every slot had a job: held, renewed, and executed when a slot is free.
        self._waiting: list[Lease] = []
        self._next_at_s = 0.0
        self._watching = False
        self._limited = False
        self._looking = 0
        self._again = False
        self._stopped = False
        self._idle: asyncio.Event | None = None

    @property
    def stopped(self) -> bool:
        """Whether no new jobs are leased."""
        return self._stopped

    @property
    def full(self) -> bool:
        """Whether every slot is taken."""
        return len(self.slots) >= self._limit

    @property
    def in_flight(self) -> list[Lease]:
        """The leases held now."""
        return [*self._waiting, *(slot.lease for slot in self.slots if slot.lease is not None)]

    def heard_since(self, before: float) -> bool:
        """Whether Redis answered a look after this time, or there is a reason not to look: full, or rate limited."""
        return self.answered_at >= before or self.full or self._limited

    def look(self) -> None:
        """Look for jobs now, if a slot is free, nobody is looking already, and no rate limit holds."""
        if self._stopped or self._limited:
            return
        if self._looking or self.full:
            # A look under way, or the one that a settling makes, may have been answered before the job came which
            # we are told of now: look again when it ends with nothing.
            self._again = True
            return
        if not self._gives_way():
            self._spawn()

    def stop(self) -> None:
        """Lease no more, and begin nothing.

        Jobs in flight go on to their end; those that are settled later, without a slot.

        One whose lease is on its way, or that waits for a slot, is given back.
        """
        knew_more = self._timer is not None
        self._rest()
        for slot in self.slots:
            slot.dismiss()
        if knew_more:
            # What this one knew of delayed jobs came from a marker that nobody else has seen.
            self._around.waits.pass_on(self.queue, self._next_at_s)
        if not self.slots:
            self._executor.close()

    def _rest(self) -> None:
        self._stopped = True
        self._around.waits.unwatch(self.queue, self._wake)
        self._watching = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def drained(self) -> None:
        """Wait until no job is in flight any more."""
        while self.slots:
            if self._idle is None:
                self._idle = asyncio.Event()
            await self._idle.wait()

    async def abandon(self, *, stalled: bool = False) -> None:
        """Break off what is in flight, once it is stopped, and give the jobs back, without spending an attempt.

        `stalled`: count a stall of each job whose attempt is broken off.
        """
        for slot in list(self.slots):
            slot.stalled = stalled
            slot.break_off()
        while self._waiting:
            self._place(self._waiting.pop())
        await self.drained()

    def lose(self, job_id: bytes) -> None:
        """A lease is not ours any more: break its attempt off and write nothing."""
        if self._let_go(job_id):
            self._around.measures.lost(self.queue)
            log.warning("lease.lost", queue=self.queue, job_id=job_id.decode(errors="replace"))

    def cancel(self, job_id: bytes) -> bool:
        """A job was cancelled, and its lock is gone: break its attempt off and write nothing. Whether it was here."""
        here = self._let_go(job_id)
        if here:
            log.info("attempt.cancelled", queue=self.queue, job_id=job_id.decode(errors="replace"))
        return here

    def _let_go(self, job_id: bytes) -> bool:
        found = [lease for lease in self.in_flight if lease.job_id == job_id]
        for lease in found:
            lease.lost = True
        self._waiting = [lease for lease in self._waiting if not lease.lost]
        for slot in self.slots:
            if slot.lease is not None and slot.lease.lost:
                slot.break_off()
        return bool(found)

    def adopt(self, lease: Lease) -> None:
        """Execute a lease that was found to be ours: now, or when a slot is free."""
        self.in_doubt.pop(lease.token, None)
        lease.renewed_at = asyncio.get_running_loop().time()
        self._waiting.append(lease)
        self._place_waiting()

    def _place_waiting(self) -> None:
        while self._waiting and not self.full:
            self._place(self._waiting.pop(0))

    def _place(self, lease: Lease) -> None:
        slot = Slot(lease.token)
        self.slots.add(slot)
        slot.task = self._around.tasks.create_task(self._run(slot, lease))

    def _wake(self, at_s: float) -> None:
        """A marker was popped: jobs wait now (0), or from `at_s` on."""
        self._watching = False
        ahead_s = at_s - self._around.now()
        if ahead_s > 0:
            self._look_in(ahead_s, at_s)
            self._watch()
        else:
            self._look_or_pass_on()

    def _look_or_pass_on(self) -> None:
        """Jobs wait: look, and if every slot is taken, let somebody look who has room."""
        if self.full and not self._looking:
            self._around.waits.pass_on(self.queue, 0.0)
        self.look()

    def _spawn(self) -> None:
        slot = Slot(self._tokens.pop() if self._tokens else self._around.token(self.queue))
        self.slots.add(slot)
        self._looking += 1
        slot.task = self._around.tasks.create_task(self._run(slot, None))

    async def _run(self, slot: Slot, lease: Lease | None) -> None:
        try:
            if lease is None:
                lease = await self._take(slot)
            while lease is not None:
                lease = await self._work(slot, lease)
        except asyncio.CancelledError:
            self._rest()  # the process is going down; a broken-off attempt does not come this far
            raise
        except Exception:
            # A task boundary: one broken job must not take the other consumers down.
            log.exception("slot.failed", queue=self.queue)
        finally:
            self._leave(slot)

    async def _work(self, slot: Slot, lease: Lease) -> Lease | None:
        """Execute one lease; the next one, if there is any."""
        lease.renewed_at = asyncio.get_running_loop().time()
        slot.lease = lease
        if self._around.cancelled and await self._cancelled_meanwhile(lease):
            return None
        if self._stopped:
            await self._executor.release(lease)
            return None
        found = await self._executor.execute(slot, lease, self._may_lease)
        slot.lease = None
        if slot.spent:
            slot.token, slot.spent = self._around.token(self.queue), False
        if isinstance(found, Lease):
            return found
        if found is not None:
            self._nothing(found)
            return None
        if slot.doubtful:
            self._doubt(slot)
        if not self._may_lease():
            return None
        self._looking += 1
        return await self._take(slot)

    async def _cancelled_meanwhile(self, lease: Lease) -> bool:
        """Whether the job was cancelled while the answer that leases it was under way."""
        if not self._around.was_cancelled(self.queue, lease.job_id):
            return False
        try:
            return lease.job_id in await self.store.extend([lease])
        except StoreError:
            return False

    async def _take(self, slot: Slot) -> Lease | None:
        """Take the next job; the caller has counted this look."""
        try:
            found = await self.store.take(slot.token)
        except StoreError as exc:
            log.debug("consumer.take_failed", queue=self.queue, error=exc.message)
            if isinstance(exc, (ConnectionLost, StoreTimeout)):
                self._doubt(slot)
            self._look_in(_RETRY_S)
            return None
        finally:
            self._looking -= 1
        self.answered_at = asyncio.get_running_loop().time()
        if isinstance(found, NoJob):
            self._nothing(found)
            return None
        self._around.presence.active(self.queue)
        self._grow()
        return found

    def _doubt(self, slot: Slot) -> None:
        """Whether this slot's token holds a job now is unknown: find out later, go on with another token."""
        self.in_doubt[slot.token] = asyncio.get_running_loop().time()
        slot.token = self._around.token(self.queue)
        slot.doubtful = False

    def _grow(self) -> None:
        """There was a job: start as many more slots as there are, so that a burst is met in logarithmic steps."""
        if self._stopped or self._limited or self._looking:
            return
        for _ in range(min(len(self.slots), self._limit - len(self.slots))):
            if self._gives_way():
                return
            self._spawn()

    def _nothing(self, found: NoJob) -> None:
        if found.retry_in_s > 0:
            # The limit may be lifted meanwhile, so it is not trusted for longer than BullMQ does.
            self._limited = True
            self._plan(min(found.retry_in_s, _LONGEST_LIMIT_S), 0.0)
        elif found.next_at_s > 0:
            self._look_in(found.next_at_s - self._around.now(), found.next_at_s)

    def _look_in(self, for_s: float, at_s: float = 0.0) -> None:
        """Look again after this time, unless an earlier look is planned or a rate limit says when.

        `at_s` is the wall-clock time of the delayed job that is looked for, 0 where it is another reason.
        """
        if self._limited and self._timer is not None:
            return
        planned = self._timer
        if planned is None or planned.when() > asyncio.get_running_loop().time() + for_s:
            self._plan(for_s, at_s)

    def _plan(self, for_s: float, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._stopped:
            # One millisecond late rather than early: BullMQ promotes a delayed job in the millisecond of its time.
            after_s = min(max(for_s, 0.0) + 0.001, _LONGEST_TIMER_S)
            self._next_at_s = at_s
            self._timer = asyncio.get_running_loop().call_later(after_s, self._time_has_come)

    def _time_has_come(self) -> None:
        self._timer = None
        self._limited = False
        self._look_or_pass_on()

    def _leave(self, slot: Slot) -> None:
        """A slot ends: there was nothing for it."""
        slot.lease = None
        self.slots.discard(slot)
        self._tokens.append(slot.token)
        self._place_waiting()
        if self._stopped:
            if not self.slots:
                self._executor.close()
        elif self._again and not self._looking:
            self._again = False
            self.look()
        else:
            self._watch()
        if not self.slots and self._idle is not None:
            self._idle.set()
            self._idle = None

    def _watch(self) -> None:
        if not (self._watching or self._limited or self._looking or self.full):
            self._watching = True
            self._around.waits.watch(self.queue, self._wake)

    def _may_lease(self) -> bool:
        """Whether a slot that is done may take another job; what is held already comes first."""
        return not (self._stopped or self._waiting or self._gives_way())

    def _gives_way(self) -> bool:
        """Whether something else goes before another job; it is looked for again when that may have changed."""
        if self._may_begin():
            return False
        if not self._limited:
            self._limited = True
            self._plan(PAUSE_S, 0.0)
        return True
