"""`Breakers` in memory."""

from __future__ import annotations

from toril.core.breaker import Admission, Breaker, admit, failed, left, passed
from toril.core.ports.shared import Now
from toril.core.target import BreakerPolicy


class FakeBreakers:
    """Decides by `toril.core.breaker` and a clock of yours; `asked` counts. `fault` is raised instead, while it is
    set.
    """

    def __init__(self, now: Now) -> None:
        self.breakers: dict[str, Breaker] = {}
        self.fault: Exception | None = None
        self.asked = 0
        self._now = now

    async def admit(self, target: str, policy: BreakerPolicy, probe: str, probe_for_s: float) -> Admission:
        """Whether an attempt may be made now."""
        self.breakers[target], admission = admit(self._of(target), policy, self._now(), probe, probe_for_s)
        return admission

    async def failed(self, target: str, policy: BreakerPolicy, probe: str | None) -> Breaker:
        """An attempt speaks against the target."""
        self.breakers[target] = failed(self._of(target), policy, self._now(), probe)
        return self.breakers[target]

    async def passed(self, target: str, policy: BreakerPolicy, probe: str) -> Breaker:
        """A probe speaks for the target."""
        self.breakers[target] = passed(self._of(target), policy, probe)
        return self.breakers[target]

    async def left(self, target: str, policy: BreakerPolicy, probe: str) -> None:
        """A probe says nothing."""
        self.breakers[target] = left(self._of(target), probe)

    async def read(self, target: str, policy: BreakerPolicy) -> tuple[Breaker, int]:
        """The breaker as it is, and how many failures count."""
        breaker = self._of(target)
        return breaker, breaker.recent(policy, self._now())

    def _of(self, target: str) -> Breaker:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return self.breakers.get(target, Breaker())
