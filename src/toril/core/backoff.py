"""How long to wait before the next attempt. Called by a destination's `judge`."""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import Struct

from toril.core.target import RetryPolicy


class Backoff(Struct, frozen=True):
    """BullMQ's backoff of a job: `delay_ms` for each retry, or doubled each time.

    `jitter` (0 to 1) is the part of the delay that is left to chance.
    """

    type: str
    delay_ms: float = 0
    jitter: float = 0


def delay_ms(backoff: Backoff | None, attempt: int, chance: Callable[[], float]) -> int | None:
    """Milliseconds to wait after the given failed attempt (1-based): 0 is at once, None an unknown strategy.

    `chance` gives a float in [0, 1). Follows `Backoffs` of BullMQ, which rounds half up and, with jitter,
    spreads evenly over [delay * (1 - jitter), delay).
    """
    if backoff is None:
        return 0
    match backoff.type:
        case "fixed":
            whole = backoff.delay_ms
        case "exponential":
            # 2 ** 1024 does not fit a float; no queue waits for 2 ** 50 milliseconds either
            whole = math.floor(2.0 ** min(attempt - 1, 50) * backoff.delay_ms + 0.5)
        case _:
            return None
    if backoff.jitter > 0:
        whole = math.floor(chance() * whole * backoff.jitter + whole * (1 - backoff.jitter))
    return max(0, round(whole))


def wait_s(policy: RetryPolicy, attempt: int, chance: Callable[[], float]) -> float:
    """Seconds to wait after the given failed attempt of a delivery (1-based), never more than `policy.max_s`.

    `chance` gives a float in [0, 1); with jitter the wait spreads evenly over (whole * (1 - jitter), whole].
    """
    # 2 ** 1024 does not fit a float, and no wait is doubled sixty times
    factor = 2.0 ** min(attempt - 1, 60) if policy.backoff == "exponential" else 1.0
    return min(policy.base_s * factor, policy.max_s) * (1.0 - policy.jitter * chance())
