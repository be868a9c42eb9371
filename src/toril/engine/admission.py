"""Lets attempts pass, or not: a target's circuit breaker, asked before an attempt and told what came of it.

While a breaker is open its queue is held in Redis (BullMQ's rate limit), so that no worker anywhere takes its jobs. Who
took one all the same gives it back untouched and holds the queue again, so a hold that got lost comes back by itself.
"""

from __future__ import annotations

import structlog

from toril.core.breaker import HALF_OPEN_PAUSE_S, Admission, Breaker, BreakerState, Go, Wait, speaks_against
from toril.core.destinations.target import Target
from toril.core.errors import StoreError
from toril.core.outcome import Outcome
from toril.core.ports.calls import Breakers
from toril.core.ports.queues import QueueHolds
from toril.core.ports.shared import Now
from toril.core.target import BreakerPolicy
from toril.engine.settler import Settler

log = structlog.get_logger(__name__)


class BreakerGate:
    """One target's breaker, as one process sees it.

    Args:
        target: whose it is; its policy is read anew each time. One whose breaker is off always passes.
        breakers: the fleet's breakers.
        holds: holds the target's queue.
        settler: its patience while Redis is away.
        now: the wall clock.
        grace_s: for how long after its attempt must have ended a probe counts.
    """

    def __init__(
        self, target: Target, breakers: Breakers, holds: QueueHolds, settler: Settler, now: Now, grace_s: float
    ) -> None:
        self._target = target
        self._breakers = breakers
        self._holds = holds
        self._settler = settler
        self._now = now
        self._grace_s = grace_s

    async def admit(self, probe: str) -> Admission:
        """Whether an attempt may be made now; as a probe it is known by this id. Raises `StoreError`."""
        spec = self._target.spec
        policy = spec.breaker
        if policy is None:
            return Go()
        probe_for_s = spec.timeout.total_s + self._grace_s
        admission = await self._settler.patiently(lambda: self._breakers.admit(spec.name, policy, probe, probe_for_s))
        match admission:
            case Wait(for_s=for_s):
                await self._hold(for_s)
            case Go(last=True):
                # The others need not even look before this one has found out.
                await self._hold(HALF_OPEN_PAUSE_S)
        return admission

    async def tell(self, probe: str, outcome: Outcome, *, as_probe: bool) -> None:
        """What came of an attempt. Good ones cost nothing while the breaker is closed."""
        spec = self._target.spec
        policy = spec.breaker
        if policy is None:
            return
        try:
            if speaks_against(outcome):
                breaker = await self._breakers.failed(spec.name, policy, probe if as_probe else None)
                if breaker.state is BreakerState.OPEN:
                    await self._opened(breaker, policy)
            elif as_probe:
                breaker = await self._breakers.passed(spec.name, policy, probe)
                if breaker.state is BreakerState.CLOSED:
                    log.info("breaker.closed", target=spec.name)
                    await self._holds.let_go(self._target.queue)
        except StoreError as exc:
            # The job's settling is patient; what the breaker has not been told, the next outcome tells it.
            log.debug("breaker.not_told", target=spec.name, error=exc.message)

    async def leave(self, probe: str) -> None:
        """A probe was broken off: somebody else may find out."""
        spec = self._target.spec
        if spec.breaker is None:
            return
        try:
            await self._breakers.left(spec.name, spec.breaker, probe)
        except StoreError as exc:
            log.debug("breaker.not_told", target=spec.name, error=exc.message)

    async def _opened(self, breaker: Breaker, policy: BreakerPolicy) -> None:
        spec = self._target.spec
        since_s = max(0.0, self._now() - (breaker.opened_at_s or 0.0))
        if since_s < 1.0:
            log.warning("breaker.open", target=spec.name, failures=len(breaker.failures), for_s=policy.open_for_s)
        await self._hold(policy.open_for_s - since_s)

    async def _hold(self, for_s: float) -> None:
        if for_s > 0:
            await self._holds.hold(self._target.queue, max(1, round(for_s * 1000)))
