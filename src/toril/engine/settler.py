"""Writes verdicts. A settlement without an answer from Redis is tried again until there is one, or the lease is lost.

Trying again is safe: BullMQ's scripts move a job only while its lock holds our token, and moving it takes the lock
away. A try without an answer may still be carried out after one that was answered, so from then on the token holds no
other job. A lock that has lapsed meanwhile is taken back if no worker has begun the job since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, assert_never

import structlog

from toril.core.errors import (
    ConnectionLost,
    JobRefused,
    LeaseLost,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    TorilError,
)
from toril.core.lease import Lease, Next
from toril.core.outcome import ConnectFailed
from toril.core.verdict import Complete, DeadLetter, Fail, HandOver, Retry, Settlement, Snooze, Verdict
from toril.engine.handovers import Handovers
from toril.engine.ports import LeaseStore
from toril.engine.slot import Slot
from toril.telemetry.measures import UNMEASURED, Measures
from toril.telemetry.tracing.attempts import AttemptTracing

log = structlog.get_logger(__name__)

T = TypeVar("T")
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5
_REPEAT_S = 10.0
_LATE = 3 / 8
"""Of the patience, which is two locks: a lock lives for longer than this from when it was asked for."""


class Settler:
    """Settles leases of any queue.

    Args:
        patience_s: how long to try what is no settlement while Redis is away, two locks. A settlement is tried until
            Redis is back: the job is its worker's until another one has begun it.
        handovers: keep the slots of jobs that are settled later.
        measures: of jobs that end and of leases that are lost; executors add the attempts.
        tracing: makes spans of attempts and settlements; None makes none.
    """

    def __init__(
        self,
        patience_s: float,
        handovers: Handovers,
        measures: Measures = UNMEASURED,
        tracing: AttemptTracing | None = None,
    ) -> None:
        self._patience_s = patience_s
        self._handovers = handovers
        self.measures = measures
        self.tracing = tracing
        self._held_up = 0
        self._logged_at: float | None = None

    def settle(
        self, store: LeaseStore, slot: Slot, lease: Lease, verdict: Verdict, may_lease: Callable[[], bool]
    ) -> Awaitable[Next | None]:
        """Write a verdict; return the next lease where there was one. A lost lease writes nothing."""
        if isinstance(verdict, HandOver):
            return self._hand_over(store, slot, lease, verdict)
        writing = self._settle(store, slot, lease, verdict, may_lease)
        return writing if self.tracing is None else self.tracing.settlement(lease, type(verdict).__name__, writing)

    async def _hand_over(self, store: LeaseStore, slot: Slot, lease: Lease, verdict: HandOver) -> None:
        if not lease.lost:
            await self._handovers.hold(store, slot, lease, verdict)

    async def _settle(
        self, store: LeaseStore, slot: Slot, lease: Lease, verdict: Settlement, may_lease: Callable[[], bool]
    ) -> Next | None:
        loop = asyncio.get_running_loop()
        tries, taken_back = 0, False
        lease.settling = True
        while not lease.lost:
            asked_at = loop.time()
            try:
                found = await self._write(store, lease, verdict, fetch_next=not lease.unanswered and may_lease())
            except StoreUnavailable as exc:
                tries += 1
                if isinstance(exc, (ConnectionLost, StoreTimeout)):
                    slot.doubtful = lease.unanswered = True
                await asyncio.sleep(_pause_s(tries))
            except LeaseLost as exc:
                if taken_back or not (taken_back := await self._takes_back(store, lease)):
                    self._refused(slot, lease, exc)
                    return None
            except StoreError as exc:
                log.error("settle.failed", queue=lease.queue, job_id=_shown(lease), error=exc.message)
                return None
            except JobRefused as exc:
                log.warning("settle.refused", queue=lease.queue, job_id=_shown(lease), error=exc.message)
                if isinstance(verdict, Fail | DeadLetter):
                    return None
                # A job with failed or pending children cannot complete, and as with BullMQ's worker it fails.
                verdict = Fail(exc.message, f"UnrecoverableError: {exc.message}")
            else:
                # Our lock was still there, so no try before this one was carried out.
                slot.doubtful = False
                if isinstance(found, Lease):
                    found.renewed_at = asked_at  # its lock lives from some moment after the question on
                self.measures.settled(lease, verdict)
                return found
        return None

    def _refused(self, slot: Slot, lease: Lease, why: LeaseLost) -> None:
        """Log a lost lease. After a try without an answer, that try has most likely settled the job instead.

        A renewal that is on its way may still take its lock back, so its token holds no other job.
        """
        lease.unanswered = True
        if not slot.doubtful:  # else what it leased is unknown
            self._lost(lease, why)

    async def _takes_back(self, store: LeaseStore, lease: Lease) -> bool:
        """Lock a job again whose lock has lapsed; return False if it is not ours now."""
        if not await self._renews(store, lease):
            return False
        log.info("lease.taken_back", queue=lease.queue, job_id=_shown(lease))
        return True

    async def _renews(self, store: LeaseStore, lease: Lease) -> bool:
        asked_at = asyncio.get_running_loop().time()
        try:
            if await self.patiently(lambda: store.extend([lease]), lease):
                return False
        except (StoreError, LeaseLost):
            return False
        if lease.lost:  # the lease keeper has given it up meanwhile
            return False
        lease.renewed_at = max(lease.renewed_at, asked_at)
        return True

    def is_late(self, lease: Lease) -> bool:
        """Return True if its lock may have lapsed: its process may have stood still before it read the answer."""
        return asyncio.get_running_loop().time() - lease.renewed_at > self._patience_s * _LATE

    async def look_for_lock(self, store: LeaseStore, lease: Lease) -> None:
        """Renew a lease whose attempt comes late; it is lost if another worker may have the job by now."""
        if lease.lost or await self._renews(store, lease) or lease.lost:
            return
        # A renewal without an answer may still take its lock back, so its token holds no other job.
        lease.lost = lease.unanswered = True
        self._lost(lease, LeaseLost())

    def _lost(self, lease: Lease, why: TorilError) -> None:
        self.measures.lost(lease.queue)
        log.warning("lease.lost", queue=lease.queue, job_id=_shown(lease), error=why.message)

    def exhausted(self, lease: Lease, outcome: ConnectFailed) -> None:
        """Log, every ten seconds at most, that this process had no socket or descriptor left for an attempt."""
        self._held_up += 1
        now = asyncio.get_running_loop().time()
        if self._logged_at is not None and now - self._logged_at < _REPEAT_S:
            return
        self._logged_at = now
        hint = "no attempt is spent; raise the limit of open files (ulimit -n), or lower concurrency"
        log.error("process.exhausted", code=outcome.code, queue=lease.queue, held_up=self._held_up, hint=hint)

    async def release(self, store: LeaseStore, lease: Lease) -> None:
        """Give a job back to the head of its queue."""
        try:
            try:
                await self.patiently(lambda: store.release(lease), lease)
            except LeaseLost:
                lease.unanswered = True
                if lease.lost or not await self._takes_back(store, lease):
                    raise
                await self.patiently(lambda: store.release(lease), lease)
        except (StoreError, JobRefused) as exc:
            log.warning("release.failed", queue=lease.queue, job_id=_shown(lease), error=exc.message)

    async def stalled_too_often(self, store: LeaseStore, lease: Lease) -> bool:
        """Count a stall of a job that is held; return True if that was more often than its worker allows."""
        try:
            too_often = await self.patiently(lambda: store.count_stall(lease), lease)
        except (StoreError, JobRefused) as exc:
            log.warning("stall.not_counted", queue=lease.queue, job_id=_shown(lease), error=exc.message)
            return False
        self.measures.stalled(lease.queue)
        log.warning("job.stalled", queue=lease.queue, job_id=_shown(lease))
        return too_often

    async def patiently(self, write: Callable[[], Awaitable[T]], lease: Lease | None = None) -> T:
        """Make an idempotent write, again and again while Redis is away, and the lease that it is for is not lost."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_s
        tries = 0
        while True:
            try:
                return await write()
            except StoreUnavailable as exc:
                tries += 1
                if lease is not None and isinstance(exc, (ConnectionLost, StoreTimeout)):
                    lease.unanswered = True
                if loop.time() > until:
                    raise
                await asyncio.sleep(_pause_s(tries))
                if lease is not None and lease.lost:
                    raise LeaseLost from None

    @staticmethod
    def _write(
        store: LeaseStore, lease: Lease, verdict: Settlement, *, fetch_next: bool
    ) -> Coroutine[Any, Any, Next | None]:
        match verdict:
            case Complete():
                return store.complete(lease, verdict, fetch_next=fetch_next)
            case Retry():
                return store.retry(lease, verdict, fetch_next=fetch_next)
            case Fail():
                return store.fail(lease, verdict, fetch_next=fetch_next)
            case Snooze():
                return store.snooze(lease, verdict, fetch_next=fetch_next)
            case DeadLetter(reason=reason, error=error):
                # In Redis it is a failed job; the ledger has the rest.
                return store.fail(lease, Fail(reason, error), fetch_next=fetch_next)
            case _:
                assert_never(verdict)


def _pause_s(tries: int) -> float:
    return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(tries, 10)))


def _shown(lease: Lease) -> str:
    return lease.job_id.decode(errors="replace")
