"""One job as a visible pipeline: admit → attempt → judge → settle.

Called by a consumer's slots. One executor per consumer; it has the connections to the destination.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from toril.core.destinations.base import Chance, Destination
from toril.core.lease import Lease, Next
from toril.core.metrics import word
from toril.core.outcome import Answered, ConnectFailed, Outcome
from toril.core.ports.calls import Outbound, OutboundPool
from toril.core.ports.work import LeaseStore
from toril.core.verdict import Complete, Fail, HandOver, Verdict, keep_for_scheduler
from toril.engine.settler import Settler
from toril.engine.slot import Slot

log = structlog.get_logger(__name__)

T = TypeVar("T")

EXHAUSTED_PAUSE_S = 1.0
"""How long a slot rests whose attempt could not be made for want of a descriptor, memory or a port."""

STALLED_TOO_OFTEN = "job stalled more than allowable limit"
"""BullMQ's reason of a failed job whose workers vanished more often than `maxStalledCount`."""

Told = Callable[[Lease, Outcome, Verdict], None]


def _nobody(lease: Lease, outcome: Outcome, verdict: Verdict) -> None:
    pass


class Executor:
    """Takes a lease through its attempt to its settlement. `told` hears what came of each attempt."""

    __slots__ = (
        "_chance", "_destination", "_labels", "_outbound", "_pool", "_settler", "_store", "_tells_all", "_told",
    )  # fmt: skip

    def __init__(
        self,
        destination: Destination,
        store: LeaseStore,
        outbound: Outbound,
        settler: Settler,
        chance: Chance,
        told: Told = _nobody,
    ) -> None:
        self._destination = destination
        self._store = store
        self._outbound = outbound
        self._settler = settler
        self._chance = chance
        self._told = told
        self._tells_all = log.is_enabled_for(logging.DEBUG)
        self._labels = (word(type(destination)).removesuffix("_destination"), destination.queue)
        self._pool: OutboundPool | None = None

    async def execute(self, slot: Slot, lease: Lease, may_lease: Callable[[], bool]) -> Next | None:
        """Work on one lease.

        Returns the next lease where settling brought one, that there was none, or None when nobody looked: the
        lease was lost, given back or handed over, or `slot.doubtful` says that the answer of the settling got lost.
        """
        verdict = await self._admit(lease)
        if verdict is None and slot.dismissed:  # meanwhile
            await self.release(lease)
            return None
        if verdict is None:
            outcome = await self._attempt(slot, lease)
            if outcome is None:
                return None
            if isinstance(outcome, ConnectFailed) and outcome.exhausted:
                if await self._room_again(slot, lease, outcome):
                    await self.release(lease)
                return None
            verdict = self._destination.judge(lease, outcome, self._chance)
            self._note(lease, outcome, verdict)
            self._told(lease, outcome, verdict)
        return await self._settler.settle(self._store, slot, lease, verdict, may_lease)

    async def release(self, lease: Lease) -> None:
        """Give a job back to the head of its queue; what went wrong with that is only logged."""
        await self._settler.release(self._store, lease)

    def close(self) -> None:
        """Let the connections to the destination go."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    async def _admit(self, lease: Lease) -> Verdict | None:
        """What is to be done before an attempt; a verdict where there is to be none."""
        fields = lease.fields
        if b"rjk" in fields:
            fault = await self._settler.patiently(lambda: self._store.schedule_next(lease))
            if fault is not None:
                return keep_for_scheduler(fault)
        deferred = fields.get(b"defa")
        if deferred:
            # Decided elsewhere: a child of it failed, or it stalled too often.
            reason = deferred.decode(errors="replace")
            return Fail(reason, f"UnrecoverableError: {reason}")
        return None

    async def _attempt(self, slot: Slot, lease: Lease) -> Outcome | None:
        """Make the request; None when the attempt was broken off."""
        if self._pool is None:
            self._pool = self._outbound.pool(self._destination.url)
        self._settler.measures.began(self._labels, lease)
        return await self._until_broken_off(slot, lease, self._pool.send(self._destination.request(lease)))

    async def _room_again(self, slot: Slot, lease: Lease, outcome: ConnectFailed) -> bool:
        """This process had nothing left to connect with: wait a moment, so that nobody spins.

        No attempt is spent. False where the attempt was broken off meanwhile, and the job is given back already.
        """
        self._settler.exhausted(lease, outcome)
        return await self._until_broken_off(slot, lease, asyncio.sleep(EXHAUSTED_PAUSE_S, True)) is not None

    async def _until_broken_off(self, slot: Slot, lease: Lease, work: Awaitable[T]) -> T | None:
        """Wait for something during which the job may be broken off; None when it was, and the job is given back."""
        slot.attempting = True
        try:
            return await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if slot.attempting or task is None:
                raise  # not by break_off: the process is going down
            task.uncancel()
            if not lease.lost:
                await self._give_back(slot, lease)
            return None
        finally:
            slot.attempting = False

    async def _give_back(self, slot: Slot, lease: Lease) -> None:
        """Release a job whose attempt was broken off, or fail it where it has stalled too often."""
        if slot.stalled and await self._settler.stalled_too_often(self._store, lease):
            verdict = Fail(STALLED_TOO_OFTEN, f"UnrecoverableError: {STALLED_TOO_OFTEN}")
            await self._settler.settle(self._store, slot, lease, verdict, lambda: False)
        else:
            await self.release(lease)

    def _note(self, lease: Lease, outcome: Outcome, verdict: Verdict) -> None:
        """Measure and log one attempt."""
        self._settler.measures.attempted(self._labels, outcome, verdict)
        # Successes at debug: thousands a second would cost more than the work they tell of, and so does collecting what
        # nobody is told.
        went_well = isinstance(verdict, (Complete, HandOver))
        if went_well and not self._tells_all:
            return
        tell = log.debug if went_well else log.info
        tell(
            "attempt",
            queue=lease.queue,
            job_id=lease.job_id.decode(errors="replace"),
            attempt=lease.attempt,
            outcome=type(outcome).__name__,
            status=outcome.status if isinstance(outcome, Answered) else None,
            duration_ms=round(outcome.duration_s * 1000, 1),
            verdict=type(verdict).__name__,
            reason=None if isinstance(verdict, Complete) else verdict.reason,
        )
