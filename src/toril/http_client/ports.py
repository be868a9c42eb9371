"""Requests whose bodies are streamed, as small Protocols; whole requests are `toril.engine.ports.Outbound`."""

from __future__ import annotations

from typing import Protocol

from toril.core.http.streaming import StreamHead, StreamRequest
from toril.core.outcome import ConnectFailed, CutOff, TimedOut


class Exchange(Protocol):
    """One request to an upstream under way, both directions at once. One task may write while another one reads.

    Raises nothing but `CancelledError`: what goes wrong is a value.
    """

    @property
    def over(self) -> bool:
        """True once the whole answer has been read."""

    async def head(self, patience_s: float) -> StreamHead | ConnectFailed | TimedOut | CutOff:
        """Return the next head of the answer: any number of heads below 200, then the real one.

        Time counts only while the whole request is written, or the upstream accepts no more of the body.
        """
        ...

    def rest(self) -> bytes | None:
        """Return the rest of the body where all of it has come; None, and nothing is taken, where more may come."""
        ...

    async def read(self, patience_s: float | None) -> bytes | TimedOut | CutOff:
        """Return the next bytes of the body as soon as there are some; empty at its end. None sets no time limit."""
        ...

    async def write(self, data: bytes) -> bool:
        """Send a piece of the body, and wait until another may follow; return False if the upstream accepts no more."""
        ...

    def end(self) -> None:
        """End the request's body: all of it has been written."""
        ...

    def close(self) -> None:
        """End the exchange now; its connection is closed unless both directions are over. Idempotent."""
        ...


class StreamOutboundPool(Protocol):
    """Connections to one upstream."""

    async def open(self, request: StreamRequest, timeout_s: float) -> Exchange | ConnectFailed | TimedOut:
        """Connect and send the head. The caller closes the exchange. Raises nothing but `CancelledError`."""
        ...

    def close(self) -> None:
        """Close idle connections; those in use end with their request."""
        ...


class StreamOutbound(Protocol):
    """Makes pools for requests whose bodies pass through; one per upstream."""

    def pool(self, url: str) -> StreamOutboundPool:
        """Return a pool for the origin of this URL. Opens nothing yet."""
        ...
