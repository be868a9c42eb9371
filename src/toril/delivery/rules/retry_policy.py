"""Whether a delivery is tried again, and how long it waits before the next attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

RETRIED = frozenset({401, 403, 404, 408, 409, 425, 429, *range(500, 600)})
"""What is tried again where a target says nothing: the request may be right, and the target not ready for it."""


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How often, when and on which statuses to try again. `max_attempts` counts the first.

    The wait is `base_s`, doubled for each further attempt where the backoff is exponential, at most `max_s`. With a
    `schedule` it is the entry for the attempt, or the last one where there are fewer. `jitter` (0 to 1) is the part of
    it that is left to chance. Transport errors and timeouts are always tried again.

    The defaults try for about a day: 15 waits, 23 h without jitter.
    """

    max_attempts: int = 16
    backoff: Literal["exponential", "fixed"] = "exponential"
    base_s: float = 5.0
    max_s: float = 6 * 3600.0
    jitter: float = 0.2
    schedule: tuple[float, ...] = ()
    retry_on: frozenset[int] = RETRIED
    fail_on: frozenset[int] = frozenset()

    def again(self, status: int) -> bool:
        """Return True if an answer with this status, which is not 2xx, is retried."""
        return status in self.retry_on and status not in self.fail_on


def wait_s(policy: RetryPolicy, attempt: int, chance: Callable[[], float]) -> float:
    """Return how long to wait after this failed attempt of a delivery (1-based).

    `chance` gives a float in [0, 1); with jitter the wait spreads evenly over (whole * (1 - jitter), whole].
    """
    if policy.schedule:
        whole_s = policy.schedule[min(attempt, len(policy.schedule)) - 1]
    else:
        # 2 ** 1024 does not fit a float, and no wait is doubled sixty times
        factor = 2.0 ** min(attempt - 1, 60) if policy.backoff == "exponential" else 1.0
        whole_s = min(policy.base_s * factor, policy.max_s)
    return whole_s * (1.0 - policy.jitter * chance())
