"""What several rooms need: the clock, Redis for what is no hot path, and what is measured and limited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from toril.core.access import RateLimit
from toril.core.metrics import Metric, QueueDepth

Now = Callable[[], float]
"""The wall clock: seconds since the epoch, UTC."""


class Meter(Protocol):
    """Keeps what is measured. Cheap enough for every request and every job; never waits, never fails.

    The metrics stand in `toril.core.metrics`; labels are given in the order that they have there.
    """

    def count(self, metric: Metric, labels: tuple[str, ...] = (), by: float = 1.0) -> None:
        """Add to a counter, or to a gauge, which may fall."""
        ...

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Put a value into a histogram, in seconds."""
        ...


class QueueDepths(Protocol):
    """Reads how full queues are."""

    async def read(self, queues: Sequence[str]) -> list[QueueDepth]:
        """The depths of these queues, in their order, all at once; one that cannot be read is left out."""
        ...


class Exposition(Protocol):
    """Everything measured, as a text for whoever collects it."""

    async def text(self, sees: Callable[[str], bool]) -> tuple[bytes, bytes]:
        """The content type, and the text: of all processes of the instance, whichever is asked. Never raises.

        Queues that the caller may not see are among the `other` ones.
        """
        ...


class RateLimits(Protocol):
    """Counts requests, in the whole fleet together."""

    async def spend(self, name: str, limit: RateLimit) -> float:
        """Count one request of this name, in one atomic step; 0 when it is within the limit.

        Otherwise it is not counted, and the answer is how many seconds from now one would be within the limit.
        """
        ...


class Command(Protocol):
    """A Redis client for commands that are not on a hot path."""

    def __call__(self, *args: str | bytes | int | float) -> Awaitable[Any]:
        """Send one command, return its reply; raises `StoreRefused` on an error reply."""
        ...
