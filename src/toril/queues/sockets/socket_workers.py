"""Consumers for workers on WebSockets. Each has one connection to its worker, which the handler of the socket holds."""

from __future__ import annotations

from collections.abc import Callable

from toril.bullmq.acknowledged.settlements import Told
from toril.core.destination import Destination
from toril.engine.consumer import Consumer
from toril.engine.ports import Outbound, OutboundPool, SettlementConfirmations
from toril.engine.supervisor import Supervisor

MakeConsumer = Callable[[Destination, int, Outbound], Consumer]
MakeConfirming = Callable[[Told], SettlementConfirmations | None]


class SocketConsumers:
    """Attaches the consumers of sockets to the process.

    `confirming` returns what confirms the settlements of a worker; None where settling is enough.
    """

    def __init__(self, make: MakeConsumer, supervisor: Supervisor, confirming: MakeConfirming = lambda _: None) -> None:
        self._make = make
        self._supervisor = supervisor
        self._confirming = confirming

    def start(self, destination: Destination, connection: OutboundPool, told: Told | None = None) -> SocketConsumer:
        """Start sending jobs over this connection, as many at once as the destination allows.

        `told` is called for each result once it is confirmed or not, if results are confirmed.
        """
        confirming = None if told is None else self._confirming(told)
        consumer = self._make(destination, destination.concurrency, OneConnection(connection, confirming))
        self._supervisor.attach(consumer)
        return SocketConsumer(consumer, self._supervisor, confirming)


class SocketConsumer:
    """The consumer of one worker, for as long as its socket lives."""

    __slots__ = ("_confirming", "_consumer", "_supervisor")

    def __init__(self, consumer: Consumer, supervisor: Supervisor, confirming: SettlementConfirmations | None) -> None:
        self._consumer = consumer
        self._supervisor = supervisor
        self._confirming = confirming

    @property
    def confirms(self) -> bool:
        """True if results are confirmed, which the worker is told of if one cannot be."""
        return self._confirming is not None

    def stop(self) -> None:
        """Stop leasing; jobs in flight continue."""
        self._consumer.stop()

    async def drained(self) -> None:
        """Wait until no job is in flight, and no result is left to be confirmed. Call `stop` first."""
        await self._consumer.drained()
        if self._confirming is not None:
            await self._confirming.settled()

    async def end(self, *, stalled: bool = False) -> None:
        """Stop, and return the jobs in flight to waiting without spending an attempt.

        `stalled`: the worker vanished, which counts as a stall of each; a job that stalled too often fails.
        """
        await self._supervisor.detach(self._consumer, stalled=stalled)


class OneConnection:
    """An `Outbound` with the one connection to a worker, and what confirms its results."""

    __slots__ = ("_connection", "confirming")

    def __init__(self, connection: OutboundPool, confirming: SettlementConfirmations | None) -> None:
        self._connection = connection
        self.confirming = confirming

    def pool(self, url: str) -> OutboundPool:
        """Return the connection."""
        return self._connection
