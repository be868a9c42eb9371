"""Ports that several rooms use: the clock, Redis off the hot paths, metrics, and rate limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from toril.core.access import RateLimit
from toril.core.http.headers import Header
from toril.core.metrics import Metric, QueueDepth

Now = Callable[[], float]
"""The wall clock: seconds since the epoch, UTC."""


class Meter(Protocol):
    """A keeper of metrics. Cheap enough for every request and every job; never waits, never fails.

    The metrics stand in `toril.core.metrics`; labels are given in the order that they have there.
    """

    def count(self, metric: Metric, labels: tuple[str, ...] = (), by: float = 1.0) -> None:
        """Add to a counter, or to a gauge, which may fall."""
        ...

    def observe(
        self, metric: Metric, labels: tuple[str, ...], value: float, trace: Sequence[Header] | None = None
    ) -> None:
        """Put a value into a histogram, in seconds. `trace` is the context of the span that it was measured in."""
        ...

    def forget(self, metric: Metric, labels: tuple[str, ...]) -> None:
        """Show a series no longer; it begins at 0 if it is measured again."""
        ...


class QueueDepths(Protocol):
    """A reader of how full queues are."""

    async def read(self, queues: Sequence[str]) -> list[QueueDepth]:
        """Return the depths of these queues, in their order, read at once; one that cannot be read is left out."""
        ...


class Exposition(Protocol):
    """A text of all metrics, for a collector."""

    async def text(self, sees: Callable[[str], bool], accept: str = "") -> tuple[bytes, bytes]:
        """Return the content type and the text, of all processes of the instance. Never raises.

        Queues that the caller may not see are counted as `other`. `accept` is the header that says which formats the
        caller reads.
        """
        ...


class RateLimits(Protocol):
    """A count of requests, of all instances together."""

    async def spend(self, name: str, limit: RateLimit) -> float:
        """Count one request of this name, in one atomic step, and return 0 where it is within the limit.

        Otherwise nothing is counted, and the result is the seconds until a request would be within it.
        """
        ...


class Command(Protocol):
    """A Redis client for commands that are not on a hot path."""

    def __call__(self, *args: str | bytes | int | float) -> Awaitable[Any]:
        """Send one command and return its reply; raises `StoreRefused` on an error reply."""
        ...
