"""Consumers for workers on WebSockets. Each has one connection to its worker, which the handler of the socket holds."""

from __future__ import annotations

from collections.abc import Callable

from toril.core.destination import Destination
from toril.engine.consumer import Consumer
from toril.engine.ports import Outbound, OutboundPool
from toril.engine.supervisor import Supervisor

MakeConsumer = Callable[[Destination, int, Outbound], Consumer]


class SocketConsumers:
    """Attaches the consumers of sockets to the process."""

    def __init__(self, make: MakeConsumer, supervisor: Supervisor) -> None:
        self._make = make
        self._supervisor = supervisor

    def start(self, destination: Destination, connection: OutboundPool) -> SocketConsumer:
        """Start sending jobs over this connection, as many at once as the destination allows."""
        consumer = self._make(destination, destination.concurrency, _OneConnection(connection))
        self._supervisor.attach(consumer)
        return SocketConsumer(consumer, self._supervisor)


class SocketConsumer:
    """The consumer of one worker, for as long as its socket lives."""

    __slots__ = ("_consumer", "_supervisor")

    def __init__(self, consumer: Consumer, supervisor: Supervisor) -> None:
        self._consumer = consumer
        self._supervisor = supervisor

    def stop(self) -> None:
        """Stop leasing; jobs in flight continue."""
        self._consumer.stop()

    async def drained(self) -> None:
        """Wait until no job is in flight. Call `stop` first."""
        await self._consumer.drained()

    async def end(self, *, stalled: bool = False) -> None:
        """Stop, and return the jobs in flight to waiting without spending an attempt.

        `stalled`: the worker vanished, which counts as a stall of each; a job that stalled too often fails.
        """
        await self._supervisor.detach(self._consumer, stalled=stalled)


class _OneConnection:
    """An `Outbound` with the one connection to the worker."""

    __slots__ = ("_connection",)

    def __init__(self, connection: OutboundPool) -> None:
        self._connection = connection

    def pool(self, url: str) -> OutboundPool:
        return self._connection
