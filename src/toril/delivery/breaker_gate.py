"""The gate of a target: asks its circuit breaker before each attempt, and reports the outcome to it.

While a breaker is open or its target is held, the target's queue is held in Redis (BullMQ's rate limit), so that no
worker takes its jobs. A worker that took one before that gives it back untouched and holds the queue again, so a lost
hold is restored.

A success makes no separate call: it is reported with the next question. Only while failures are counted it is
reported at once, and otherwise within `REPORT_S`. While the breaker is closed, attempts that ask in the same turn of
the event loop share one question, which is sent after the last of them has asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from msgspec import Struct

from toril.core.errors import StoreError
from toril.core.outcome import Answered, Outcome
from toril.core.ports import Now
from toril.delivery.ports import Breakers, TargetHolds
from toril.delivery.rules.breaker import (
    HALF_OPEN_PAUSE_S,
    NO_SUCCESSES,
    AttemptAllowed,
    AttemptBlocked,
    Breaker,
    BreakerDecision,
    BreakerState,
    FailedAttempt,
    Successes,
)
from toril.delivery.rules.destination import Target
from toril.delivery.rules.target import BreakerPolicy
from toril.engine.settler import Settler

log = structlog.get_logger(__name__)

REPORT_S = 1.0
_WITH_A_QUESTION_S = 0.1


class GatedAttempt(Struct, frozen=True):
    """An attempt that was let through: its unique name, its delivery, and whether it is a probe."""

    name: str
    delivery: str
    probe: bool


def _ignore(target: str, breaker: Breaker) -> None:
    pass


class BreakerGate:
    """One target's breaker, as one process sees it.

    Args:
        target: whose breaker it is; its policy is read each time. Without a policy only a hold keeps attempts back.
        breakers: the breakers of the fleet.
        holds: holds the target's queue, and tells whether it is paused.
        settler: retries calls while Redis is away.
        now: the wall clock.
        grace_s: how long a probe still counts after the longest time its attempt may take.

    `changed` is called with the target and its breaker when that opens or closes.
    """

    def __init__(
        self, target: Target, breakers: Breakers, holds: TargetHolds, settler: Settler, now: Now, grace_s: float
    ) -> None:
        self._target = target
        self._breakers = breakers
        self._holds = holds
        self._settler = settler
        self._now = now
        self._grace_s = grace_s
        self._successes = 0
        self._succeeded_at = 0.0
        self._reported_at = 0.0
        self._counts_failures = False
        # True while the last attempt that asked was let through, and was no probe.
        self._passes = False
        # The attempts that share the question of this turn; None while there is none to share.
        self._sharing: list[asyncio.Future[AttemptAllowed | None]] | None = None
        self.changed: Callable[[str, Breaker], None] = _ignore

    async def admit(self, name: str) -> BreakerDecision:
        """Decide whether an attempt may be made now; `name` is its id if it becomes a probe. Raises `StoreError`.

        A probe asks again with the same name right before its request is made: its place is then kept for as long as
        that may take.
        """
        if not self._passes:
            return await self._ask(name)
        if self._sharing is None:
            return await self._ask_for_all(name)
        answer: asyncio.Future[AttemptAllowed | None] = asyncio.get_running_loop().create_future()
        self._sharing.append(answer)
        return await answer or await self._ask(name)

    async def _ask_for_all(self, name: str) -> BreakerDecision:
        """Ask for an attempt, and for those that ask in the same turn; where it may not simply be made, these ask for
        themselves.
        """
        sharing = self._sharing = []
        decision: BreakerDecision | None = None
        try:
            try:
                await asyncio.sleep(0)
            finally:
                self._sharing = None
            decision = await self._ask(name)
        finally:
            shared = decision if isinstance(decision, AttemptAllowed) and not decision.probe else None
            for answer in sharing:
                if not answer.done():
                    answer.set_result(shared)
        return decision

    async def _ask(self, name: str) -> BreakerDecision:
        spec = self._target.spec
        policy = spec.breaker
        probe_for_s = spec.timeout.total_s + self._grace_s
        successes = NO_SUCCESSES if policy is None else self._to_report(_WITH_A_QUESTION_S)
        admission = await self._settler.patiently(
            lambda: self._breakers.admit(spec.name, policy, name, probe_for_s, successes)
        )
        self._passes = isinstance(admission, AttemptAllowed) and not admission.probe
        match admission:
            case AttemptBlocked(for_s=for_s):
                await self._hold(for_s)
            case AttemptAllowed(last=True):
                # Until this probe has an outcome, no other worker needs to ask.
                await self._hold(HALF_OPEN_PAUSE_S)
            case AttemptAllowed(row=row):
                self._counts_failures = row > 0
        return admission

    async def paused(self) -> bool:
        """Return True while the target is paused. Raises `StoreError`."""
        return await self._settler.patiently(lambda: self._holds.paused(self._target.queue))

    async def tell(self, attempt: GatedAttempt, outcome: Outcome) -> None:
        """Report the outcome of an attempt, and hold the target for as long as its answer asks for."""
        spec = self._target.spec
        policy, hold_s = spec.breaker, self._target.hold_s(outcome)
        try:
            if self._target.failing(outcome) and (policy is not None or hold_s > 0):
                await self._failed(attempt, policy, hold_s)
                return
            if hold_s > 0:
                await self._held(await self._breakers.hold(spec.name, hold_s), hold_s)
            if policy is None:
                return
            if attempt.probe:
                breaker = await self._settler.patiently(lambda: self._breakers.passed(spec.name, policy, attempt.name))
                await self._closed(breaker)
            elif isinstance(outcome, Answered) and 200 <= outcome.status < 300:
                self._successes += 1
                self._succeeded_at = asyncio.get_running_loop().time()
                if self._counts_failures:
                    await self.report()
        except StoreError as exc:
            # One outcome less changes little: the next one is reported again.
            log.debug("breaker.not_told", target=spec.name, error=exc.message)

    async def report(self) -> None:
        """Report the successes that were not reported yet. Raises `StoreError`."""
        spec = self._target.spec
        successes = self._to_report(0.0)
        if spec.breaker is None or not successes.count:
            return
        breaker = await self._breakers.succeeded(spec.name, spec.breaker, successes)
        self._counts_failures = bool(breaker.row)

    async def leave(self, name: str) -> None:
        """Report that a probe was aborted, so that another attempt can take its place."""
        spec = self._target.spec
        if spec.breaker is None:
            return
        try:
            await self._breakers.left(spec.name, spec.breaker, name)
        except StoreError as exc:
            log.debug("breaker.not_told", target=spec.name, error=exc.message)

    def _to_report(self, after_s: float) -> Successes:
        """Return the successes to report now, if the last report was so long ago or failures are counted."""
        now = asyncio.get_running_loop().time()
        if not self._successes or (now - self._reported_at < after_s and not self._counts_failures):
            return NO_SUCCESSES
        successes = Successes(self._successes, max(0.0, now - self._succeeded_at))
        self._successes, self._reported_at = 0, now
        return successes

    async def _failed(self, attempt: GatedAttempt, policy: BreakerPolicy | None, hold_s: float) -> None:
        spec = self._target.spec
        failure = FailedAttempt(attempt.delivery, attempt.name if attempt.probe else None, hold_s)
        successes = NO_SUCCESSES if policy is None else self._to_report(0.0)
        breaker = await self._breakers.failed(spec.name, policy, failure, successes)
        self._counts_failures = bool(breaker.row)
        if hold_s > 0:
            await self._held(breaker, hold_s)
        if policy is not None and breaker.state is BreakerState.OPEN:
            await self._opened(breaker, policy)

    async def _opened(self, breaker: Breaker, policy: BreakerPolicy) -> None:
        spec = self._target.spec
        since_s = max(0.0, self._now() - (breaker.opened_at_s or 0.0))
        self.changed(spec.name, breaker)
        if since_s < 1.0:
            log.warning("breaker.open", target=spec.name, failures=breaker.failures, for_s=policy.open_for_s)
        await self._hold(policy.open_for_s - since_s)

    async def _closed(self, breaker: Breaker) -> None:
        if breaker.state is not BreakerState.CLOSED:
            return
        self.changed(self._target.spec.name, breaker)
        log.info("breaker.closed", target=self._target.spec.name)
        await self._holds.let_go(self._target.queue)
        if breaker.held_until_s is not None:
            await self._hold(breaker.held_until_s - self._now())

    async def _held(self, breaker: Breaker, hold_s: float) -> None:
        until_s = breaker.held_until_s or 0.0
        log.info("target.held", target=self._target.spec.name, for_s=round(hold_s, 3))
        await self._hold(max(hold_s, until_s - self._now()))

    async def _hold(self, for_s: float) -> None:
        if for_s > 0:
            await self._holds.hold(self._target.queue, max(1, round(for_s * 1000)))
