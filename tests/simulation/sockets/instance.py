"""One toril whose queues have workers on sockets, served over ASGI."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextvars import Context
from typing import TYPE_CHECKING, Any

from tests.simulation.queues_world import QueuesInstance
from tests.simulation.wire import Wired
from tests.simulation.world import OrderedConsumer
from toril.bullmq.rules.queue_name import NameRules
from toril.core.destination import Destination
from toril.engine.consumer import Consumer
from toril.engine.executor import Executor
from toril.engine.ports import Outbound
from toril.queues.connected.open_workers import OpenWorkers
from toril.queues.sockets.socket_workers import SocketConsumers
from toril.queues.sockets.worker import WorkerSocketRoutes
from toril.web.websocket import OpenSockets, SocketLifetime, socket_app

if TYPE_CHECKING:
    from tests.simulation.sockets.world import SocketsWorld, SocketWorkerClient


class _InOrder:
    """A set of sockets that keeps their order."""

    def __init__(self) -> None:
        self._kept: dict[Any, None] = {}

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept)

    def add(self, socket: Any) -> None:
        """Add a socket."""
        self._kept[socket] = None

    def discard(self, socket: Any) -> None:
        """Remove a socket."""
        self._kept.pop(socket, None)


class _Gone:
    """Stands for the task group of a process that is gone: nothing begins in it."""

    def create_task(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Future[Any]":
        """Drop the work."""
        work.close()
        return asyncio.get_running_loop().create_future()


class SocketsInstance(QueuesInstance):
    """One toril with sockets of workers, beside what the queues door has."""

    world: "SocketsWorld"

    async def serve(self) -> None:
        """Wire it up as `toril.instance.queues` does."""
        await super().serve()
        self.engine_chance = self.world.chance(f"{self.name}:sockets")
        self.sockets = OpenSockets()
        self.sockets._open = _InOrder()  # type: ignore[assignment]
        routes = WorkerSocketRoutes(
            SocketConsumers(self._socket_consumer, self.supervisor),
            Wired(self.world.reports, self.line),  # type: ignore[arg-type]
            OpenWorkers(None, "bull", self.name, self.now),  # type: ignore[arg-type]
            names=NameRules(),
            prefix="bull",
        )
        self.app = SocketLifetime(socket_app(routes.work), self.sockets)

    def _socket_consumer(self, destination: Destination, slots: int, outbound: Outbound) -> Consumer:
        leases = self._leases(destination.queue)
        executor = Executor(destination, leases, outbound, self.settler, self.engine_chance.random)
        return OrderedConsumer(destination, slots, leases, executor, self.shared)

    def kill(self) -> None:
        """End the process at once, also where a socket's handler would wait for something before it ends."""
        super().kill()
        self.shared.tasks = _Gone()  # type: ignore[assignment]
        self.world.loop.call_later(1.0, self._end_all, context=Context())

    def _end_all(self) -> None:
        for task in list(self.tasks._tasks):
            task.cancel()

    async def drain(self) -> None:
        """As an instance does: its workers hear of it first."""
        self.sockets.drain()
        await super().drain()

    async def connected(self, client: "SocketWorkerClient", came: "asyncio.Queue[dict[str, Any]]") -> None:
        """Serve the socket of a worker until it is closed."""
        scope = {
            "type": "websocket", "path": "/ws", "query_string": client.query, "headers": [], "subprotocols": [],
            "path_params": {"queue": client.queue, "concurrency": str(client.concurrency)},
        }  # fmt: skip

        async def send(message: Any) -> None:
            client.receives(came, message)

        await self.app(scope, came.get, send)
        client.closed(came)
