"""Requests to endpoints, upstreams and targets, and the breakers that spare them."""

from __future__ import annotations

from typing import Protocol

from toril.core.breaker import Admission, Breaker
from toril.core.destinations.base import OutboundRequest
from toril.core.outcome import ConnectFailed, CutOff, Outcome, TimedOut
from toril.core.streaming import StreamHead, StreamRequest
from toril.core.target import BreakerPolicy


class OutboundPool(Protocol):
    """Connections to one destination."""

    async def send(self, request: OutboundRequest) -> Outcome:
        """Make one request and read the whole answer. Raises nothing but `CancelledError`."""
        ...

    def close(self) -> None:
        """Let idle connections go; those in use end with their request."""
        ...


class Outbound(Protocol):
    """Makes pools; one per destination, so that none can use up another one's connections."""

    def pool(self, url: str) -> OutboundPool:
        """A pool for the origin of this URL. Opens nothing yet."""
        ...


class Exchange(Protocol):
    """One request to an upstream under way, both directions at once. One task may write while another one reads.

    Raises nothing but `CancelledError`: what goes wrong is a value.
    """

    @property
    def over(self) -> bool:
        """Whether the whole answer has been read."""

    async def head(self, patience_s: float) -> StreamHead | ConnectFailed | TimedOut | CutOff:
        """How the answer begins: any number of heads below 200, then the real one.

        Time counts only while the upstream has all it can ask for, or takes no more of the body.
        """
        ...

    async def read(self, patience_s: float | None) -> bytes | TimedOut | CutOff:
        """What has come of the body, as soon as there is something; nothing at its end. None is patient for ever."""
        ...

    async def write(self, data: bytes) -> bool:
        """Send a piece of the body, and wait until another may follow; False when the upstream takes no more."""
        ...

    def end(self) -> None:
        """The body is whole."""
        ...

    def close(self) -> None:
        """End it now. Unless it is over in both directions, the upstream sees its connection closed. Idempotent."""
        ...


class StreamOutboundPool(Protocol):
    """Connections to one upstream."""

    async def open(self, request: StreamRequest, timeout_s: float) -> Exchange | ConnectFailed | TimedOut:
        """Connect and send the head. Whoever has the exchange closes it. Raises nothing but `CancelledError`."""
        ...

    def close(self) -> None:
        """Let idle connections go; those in use end with their request."""
        ...


class StreamOutbound(Protocol):
    """Makes pools for requests whose bodies pass through; one per upstream."""

    def pool(self, url: str) -> StreamOutboundPool:
        """A pool for the origin of this URL. Opens nothing yet."""
        ...


class Breakers(Protocol):
    """The circuit breakers of targets, shared by the whole fleet; `toril.core.breaker` says what each call does.

    Each call is one atomic step, by one clock.
    """

    async def admit(self, target: str, policy: BreakerPolicy, probe: str, probe_for_s: float) -> Admission:
        """Whether an attempt may be made now. As a probe it is known by this id, and counts as gone after so long."""
        ...

    async def failed(self, target: str, policy: BreakerPolicy, probe: str | None) -> Breaker:
        """An attempt (this probe, if it was one) speaks against the target; the breaker as it is then."""
        ...

    async def passed(self, target: str, policy: BreakerPolicy, probe: str) -> Breaker:
        """A probe speaks for the target; the breaker as it is then."""
        ...

    async def left(self, target: str, policy: BreakerPolicy, probe: str) -> None:
        """A probe says nothing: its place is free."""
        ...

    async def read(self, target: str, policy: BreakerPolicy) -> tuple[Breaker, int]:
        """The breaker as it is, and how many failures count now. An open one stays so until somebody asks to pass."""
        ...
