"""BullMQ's backoff: how long a job waits before its next attempt."""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import Struct


class Backoff(Struct, frozen=True):
    """A job's backoff as BullMQ has it: `delay_ms` before each retry, or doubled each time.

    `jitter` (0 to 1) is the part of the delay that is left to chance.
    """

    type: str
    delay_ms: float = 0
    jitter: float = 0


def delay_ms(backoff: Backoff | None, attempt: int, random: Callable[[], float]) -> int | None:
    """Return the milliseconds to wait after a failed attempt (1-based); 0 is at once, None an unknown strategy.

    `random` gives a float in [0, 1). Follows `Backoffs` of BullMQ, which rounds half up and, with jitter,
    spreads evenly over [delay * (1 - jitter), delay).
    """
    if backoff is None:
        return 0
    match backoff.type:
        case "fixed":
            whole = backoff.delay_ms
        case "exponential":
            # 2 ** 1024 does not fit a float; and 2 ** 50 milliseconds are longer than any queue lives
            whole = math.floor(2.0 ** min(attempt - 1, 50) * backoff.delay_ms + 0.5)
        case _:
            return None
    if backoff.jitter > 0:
        whole = math.floor(random() * whole * backoff.jitter + whole * (1 - backoff.jitter))
    return max(0, round(whole))
