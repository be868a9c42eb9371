"""`Breakers` in memory."""

from __future__ import annotations

from msgspec.structs import replace

from toril.core.ports import Now
from toril.delivery.rules.breaker import (
    NO_SUCCESSES,
    Breaker,
    BreakerDecision,
    FailedAttempt,
    Successes,
    admit,
    failed,
    held,
    left,
    passed,
    succeeded,
)
from toril.delivery.rules.target import BreakerPolicy


class FakeBreakers:
    """Decides by `toril.delivery.rules.breaker` and a clock of yours; `asked` counts. `fault` is raised instead, while
    it is set.
    """

    def __init__(self, now: Now) -> None:
        self.breakers: dict[str, Breaker] = {}
        self.fault: Exception | None = None
        self.asked = 0
        self._now = now

    async def admit(
        self,
        target: str,
        policy: BreakerPolicy | None,
        probe: str,
        probe_for_s: float,
        successes: Successes = NO_SUCCESSES,
    ) -> BreakerDecision:
        """Return whether an attempt may be made now."""
        breaker = self._after(target, policy, successes)
        self.breakers[target], admission = admit(breaker, policy, self._now(), probe, probe_for_s)
        return admission

    async def succeeded(self, target: str, policy: BreakerPolicy, successes: Successes) -> Breaker:
        """Record attempts that succeeded and are no probes."""
        self.breakers[target] = self._after(target, policy, successes)
        return self.breakers[target]

    async def failed(
        self, target: str, policy: BreakerPolicy | None, failure: FailedAttempt, successes: Successes = NO_SUCCESSES
    ) -> Breaker:
        """Record an attempt that counts as a failure of the target."""
        self.breakers[target] = failed(self._after(target, policy, successes), policy, self._now(), failure)
        return self.breakers[target]

    async def hold(self, target: str, for_s: float) -> Breaker:
        """Let no attempt be made for so long."""
        self.breakers[target] = held(self._of(target), self._now(), for_s)
        return self.breakers[target]

    async def release(self, target: str) -> bool:
        """End a hold; return whether there was one."""
        breaker = self._of(target)
        self.breakers[target] = replace(breaker, held_until_s=None)
        return breaker.held_until_s is not None and breaker.held_until_s > self._now()

    async def passed(self, target: str, policy: BreakerPolicy, probe: str) -> Breaker:
        """Record a probe that succeeded."""
        self.breakers[target] = passed(self._of(target), policy, probe)
        return self.breakers[target]

    async def left(self, target: str, policy: BreakerPolicy, probe: str) -> None:
        """Record a probe without a result."""
        self.breakers[target] = left(self._of(target), probe)

    async def read(self, target: str) -> Breaker:
        """Return the breaker."""
        return self._of(target)

    def _after(self, target: str, policy: BreakerPolicy | None, successes: Successes) -> Breaker:
        return succeeded(self._of(target), policy, self._now(), successes)

    def _of(self, target: str) -> Breaker:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return self.breakers.get(target, Breaker())
