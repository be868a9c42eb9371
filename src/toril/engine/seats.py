"""Places for workers on sockets: each is a consumer of its own, on a line that somebody else holds.

Called by the gateway's sockets, through a port.
"""

from __future__ import annotations

from collections.abc import Callable

from toril.core.destinations.base import Destination
from toril.core.ports.calls import Outbound, OutboundPool
from toril.engine.consumer import Consumer
from toril.engine.supervisor import Supervisor

MakeConsumer = Callable[[Destination, int, Outbound], Consumer]


class Seats:
    """Seats workers among the consumers of a process."""

    def __init__(self, make: MakeConsumer, supervisor: Supervisor) -> None:
        self._make = make
        self._supervisor = supervisor

    def join(self, destination: Destination, line: OutboundPool) -> Seat:
        """Begin to send jobs over this line."""
        consumer = self._make(destination, destination.concurrency, _OneLine(line))
        self._supervisor.seat(consumer)
        return Seat(consumer, self._supervisor)


class Seat:
    """One worker's place."""

    __slots__ = ("_consumer", "_supervisor")

    def __init__(self, consumer: Consumer, supervisor: Supervisor) -> None:
        self._consumer = consumer
        self._supervisor = supervisor

    def stop(self) -> None:
        """Lease no more; what it holds goes on."""
        self._consumer.stop()

    async def done(self) -> None:
        """Wait until nothing is in flight any more."""
        await self._consumer.drained()

    async def leave(self, *, stalled: bool = False) -> None:
        """Lease no more, and give back what is held, as stalled where the worker vanished."""
        await self._supervisor.unseat(self._consumer, stalled=stalled)


class _OneLine:
    """The only connection there is to this destination."""

    __slots__ = ("_line",)

    def __init__(self, line: OutboundPool) -> None:
        self._line = line

    def pool(self, url: str) -> OutboundPool:
        return self._line
