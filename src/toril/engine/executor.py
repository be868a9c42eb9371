"""One job as a visible pipeline: admit → attempt → judge → settle.

One executor per consumer; it has the connections to the destination.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from toril.core.destination import Destination, RandomSource
from toril.core.lease import Lease, Next
from toril.core.made_attempt import STALLED, Ending, broken_off_attempt, ending_of, failed_attempt
from toril.core.metrics import word
from toril.core.outcome import Answered, ConnectFailed, Outcome
from toril.core.verdict import Complete, DeadLetter, Fail, HandOver, Retry, Verdict, keep_for_scheduler
from toril.engine.ports import LeaseStore, Outbound, OutboundPool, SettlementConfirmations
from toril.engine.settler import Settler
from toril.engine.slot import Slot
from toril.telemetry.tracing.spans import trace_ids

log = structlog.get_logger(__name__)

T = TypeVar("T")

EXHAUSTED_PAUSE_S = 1.0
"""How long a slot rests when this process has no descriptor, memory or port left for its attempt."""

STALLED_TOO_OFTEN = "job stalled more than allowable limit"
"""BullMQ's reason for failing a job whose workers vanished more often than `maxStalledCount`."""

_BESIDE = frozenset((b"rjk", b"defa"))
"""A job with one of these fields needs more than its attempt: see `Executor._admit`."""

OnAttempt = Callable[[Lease, Outcome, Verdict], None]
"""Called after each attempt, before its verdict is written."""


def ignore(lease: Lease, outcome: Outcome, verdict: Verdict) -> None:
    """Do nothing."""


class Executor:
    """Takes a lease through its attempt to its settlement.

    `confirming`, to be set before the first job, confirms settlements; None where settling is enough.
    """

    __slots__ = (
        "_chance", "_destination", "_labels", "_logs_success", "_on_attempt", "_outbound", "_pool", "_settler",
        "_store", "confirming",
    )  # fmt: skip

    def __init__(
        self,
        destination: Destination,
        store: LeaseStore,
        outbound: Outbound,
        settler: Settler,
        random: RandomSource,
        on_attempt: OnAttempt = ignore,
    ) -> None:
        self._destination = destination
        self._store = store
        self._outbound = outbound
        self._settler = settler
        self._chance = random
        self._on_attempt = on_attempt
        self.confirming: SettlementConfirmations | None = None
        self._logs_success = log.is_enabled_for(logging.DEBUG)
        self._labels = (word(type(destination)).removesuffix("_destination"), destination.queue)
        self._pool: OutboundPool | None = None

    async def execute(self, slot: Slot, lease: Lease, may_lease: Callable[[], bool]) -> Next | None:
        """Work on one lease.

        Returns the next lease if settling brought one, `NoJob` if there was none, or None if settling did not look:
        the lease was lost, given back or handed over, or (`slot.doubtful`) Redis' answer was lost.
        """
        verdict = None if _BESIDE.isdisjoint(lease.fields) else await self._admit(lease)
        if verdict is None and self._settler.is_late(lease):
            await self._settler.look_for_lock(self._store, lease)
        if lease.lost:  # meanwhile another worker may have begun the job
            return None
        if verdict is None and slot.dismissed:
            await self.release(lease)
            return None
        if verdict is None:
            outcome = await self._attempt(slot, lease)
            if outcome is None:
                return None
            if isinstance(outcome, ConnectFailed) and outcome.exhausted:
                if await self._rest(slot, lease, outcome):
                    await self.release(lease)
                return None
            verdict = self._destination.judge(lease, outcome, self._chance)
            self._note(lease, outcome, verdict)
            self._on_attempt(lease, outcome, verdict)
        settled = verdict
        if self.confirming is None or isinstance(settled, HandOver):
            return await self._settler.settle(self._store, slot, lease, settled, may_lease)
        return await self.confirming.after(
            lease, lambda: self._settler.settle(self._store, slot, lease, settled, may_lease)
        )

    async def release(self, lease: Lease) -> None:
        """Give a job back to the head of its queue; an error is logged."""
        await self._settler.release(self._store, lease)

    def close(self) -> None:
        """Close the connections to the destination."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    async def _admit(self, lease: Lease) -> Verdict | None:
        """Do what comes before an attempt; return a verdict if no attempt is to be made."""
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
        """Make the request; return None if the attempt was broken off."""
        if self._pool is None:
            self._pool = self._outbound.pool(self._destination.url)
        request, tracing = self._destination.request(lease), self._settler.tracing
        if tracing is None:
            sending = self._pool.send(request)
        else:
            sending = tracing.begin(self._destination.url, lease, request).send(self._pool.send)
        self._settler.measures.began(self._labels, lease)
        return await self._until_broken_off(slot, lease, sending, made=True)

    async def _rest(self, slot: Slot, lease: Lease, outcome: ConnectFailed) -> bool:
        """Wait a moment, because this process had no socket or descriptor left; no attempt is spent.

        Returns False if the attempt was broken off meanwhile: the job is given back already.
        """
        self._settler.exhausted(lease, outcome)
        return await self._until_broken_off(slot, lease, asyncio.sleep(EXHAUSTED_PAUSE_S, True)) is not None

    async def _until_broken_off(self, slot: Slot, lease: Lease, work: Awaitable[T], *, made: bool = False) -> T | None:
        """Wait for work that may be broken off; return None if it was: the job is given back. `made`: the work is an
        attempt, to be kept with the job.
        """
        slot.attempting = True
        try:
            return await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if slot.attempting or task is None:
                raise  # not by break_off: the process is going down
            task.uncancel()
            if not lease.lost:
                await self._give_back(slot, lease, made=made)
            return None
        finally:
            slot.attempting = False

    async def _give_back(self, slot: Slot, lease: Lease, *, made: bool) -> None:
        """Release a job whose attempt was broken off, or fail it where it has stalled too often."""
        now_s = self._settler.measures.now()
        broken_off = broken_off_attempt(lease.attempt, lease.fields, self._labels[0], now_s, stalled=slot.stalled)
        if made or slot.stalled:
            lease.failed = broken_off
        if slot.stalled and await self._settler.stalled_too_often(self._store, lease):
            verdict = Fail(STALLED_TOO_OFTEN, f"UnrecoverableError: {STALLED_TOO_OFTEN}")
            ending = Ending(STALLED, broken_off.duration_ms / 1000)
            lease.failed = failed_attempt(lease.attempt, ending, verdict, self._labels[0], now_s)
            await self._settler.settle(self._store, slot, lease, verdict, lambda: False)
        elif not lease.lost:  # it may have been lost while its stall was counted
            await self.release(lease)

    def _note(self, lease: Lease, outcome: Outcome, verdict: Verdict) -> None:
        """Measure and log one attempt; one that failed is to be kept with the job."""
        self._settler.measures.attempted(self._labels, lease, outcome, verdict)
        # Successes are logged at debug, as thousands a second would cost more than the work that they are about. Where
        # debug is off, not even the fields are collected.
        went_well = isinstance(verdict, (Complete, HandOver))
        if went_well and not self._logs_success:
            return
        if isinstance(verdict, (Retry, Fail, DeadLetter)):
            now_s = self._settler.measures.now()
            lease.failed = failed_attempt(lease.attempt, ending_of(outcome), verdict, self._labels[0], now_s)
        write = log.debug if went_well else log.info
        write(
            "attempt",
            queue=lease.queue,
            job_id=lease.job_id.decode(errors="replace"),
            attempt=lease.attempt,
            outcome=type(outcome).__name__,
            status=outcome.status if isinstance(outcome, Answered) else None,
            duration_ms=round(outcome.duration_s * 1000, 1),
            verdict=type(verdict).__name__,
            reason=None if isinstance(verdict, Complete) else verdict.reason,
            **({} if lease.trace is None else trace_ids(lease.trace)),
        )
