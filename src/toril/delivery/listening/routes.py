"""`/ws/targets/{target}/listen/{concurrency}`: a program makes the requests of a target's deliveries.

The gateway does everything else of an attempt, as with a request that it makes itself: breaker, ledger, signature,
verdict. A listener gets the body and decides by its answer what becomes of the delivery, so it needs the right to
manage deliveries and to read payloads. When it closes or drops, what it has is given back, and no attempt is spent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

from toril.core.access import Right
from toril.core.destination import OutboundRequest
from toril.core.errors import BlobLost, BlobsUnavailable, InvalidRequest, UnknownTarget
from toril.core.outcome import BODY_UNREADABLE, CutOff, Outcome, TimedOut
from toril.delivery.listening.listened_target import ListenedTarget
from toril.delivery.listening.messages import (
    ListenedReply,
    ListenedWorkMessage,
    cancel_message,
    deliver_message,
    outcome_of,
    read_listened_reply,
)
from toril.engine.consumer import Consumer
from toril.engine.ports import Outbound, OutboundPool
from toril.engine.supervisor import Supervisor
from toril.web.openapi.description import SocketAbout
from toril.web.parameters import integer
from toril.web.routing import SocketRoute
from toril.web.websocket import GOING_AWAY, WebSocket

MOST_AT_ONCE = 100
MOST_BODY_BYTES = 32 * 1024 * 1024
_GRACE_S = 2.0
"""For how much longer than the endpoint the gateway waits: the listener knows better what the endpoint did."""
_NOT_UNDERSTOOD = 1003

_ABOUT = SocketAbout(ListenedReply, ListenedWorkMessage)

MakeTarget = Callable[[str, int], ListenedTarget | None]
"""Returns a target by its name for so many requests at once; None if it is not configured."""
MakeListener = Callable[[ListenedTarget, Outbound], Consumer]


class TargetListenerRoutes:
    """The route of sockets for listeners: one consumer for each socket.

    Args:
        make_target: knows the targets.
        make: builds a consumer of a target's queue.
        ended: is told when a target is no longer listened to.
        supervisor: renews the leases of the consumers.
        most_response_bytes: how much of an answer is kept.
    """

    def __init__(
        self,
        make_target: MakeTarget,
        make: MakeListener,
        ended: Callable[[ListenedTarget], None],
        supervisor: Supervisor,
        most_response_bytes: int,
    ) -> None:
        self._make_target = make_target
        self._make = make
        self._ended = ended
        self._supervisor = supervisor
        self._most_response_bytes = most_response_bytes

    def routes(self) -> list[SocketRoute]:
        """Return the routes."""
        template = "/ws/targets/{target}/listen/{concurrency}"
        return [SocketRoute(template, self.listen, right=Right.DELIVERIES_MANAGE, about=_ABOUT)]

    async def listen(self, socket: WebSocket) -> None:
        """Send the deliveries of a target over a WebSocket. Needs the right to read payloads too."""
        name, text = socket.path_params["target"], socket.path_params["concurrency"]
        socket.demand(Right.PAYLOADS_READ, name)
        fault = f"Invalid concurrency {text[:100]}, must be a whole number from 1 to {MOST_AT_ONCE}"
        target = self._make_target(name, integer(text, "concurrency", 1, MOST_AT_ONCE, fault))
        if target is None:
            raise UnknownTarget
        try:
            await socket.serve(lambda: self._work(socket, target))
        finally:
            self._ended(target)

    async def _work(self, socket: WebSocket, target: ListenedTarget) -> None:
        async with asyncio.TaskGroup() as tasks:
            line = _Line(socket, tasks, self._most_response_bytes)
            consumer = self._make(target, line)
            self._supervisor.attach(consumer)
            socket.on_drain = lambda: tasks.create_task(_close_when_done(socket, consumer))
            try:
                while (message := await socket.receive_message()) is not None:
                    try:
                        line.hear(read_listened_reply(message))
                    except InvalidRequest as exc:
                        await socket.close(_NOT_UNDERSTOOD, exc.message[:100])
            finally:
                socket.gone = True
                await self._supervisor.detach(consumer, stalled=False)


async def _close_when_done(socket: WebSocket, consumer: Consumer) -> None:
    consumer.stop()
    await consumer.drained()
    await socket.close(GOING_AWAY, "shutting down")


class _Line:
    """The engine's view of a listener: a pool with one connection that takes many requests at once."""

    def __init__(self, socket: WebSocket, tasks: asyncio.TaskGroup, most_response_bytes: int) -> None:
        self._socket = socket
        self._tasks = tasks
        self._most_response_bytes = most_response_bytes
        self._under_way: dict[int, asyncio.Future[ListenedReply]] = {}
        self._next = 0

    def pool(self, url: str) -> OutboundPool:
        """Return this connection, wherever the target is."""
        return self

    def close(self) -> None:
        """Do nothing: the handler closes the socket."""

    async def send(self, request: OutboundRequest) -> Outcome:
        """Have the listener make a request, and wait for what came of it."""
        began = perf_counter()
        number = self._next
        self._next += 1
        answer: asyncio.Future[ListenedReply] = asyncio.get_running_loop().create_future()
        self._under_way[number] = answer
        try:
            async with asyncio.timeout(request.timeout_s + _GRACE_S):
                body = await _body(request)
                await self._socket.send_message(deliver_message(number, request, body))
                reply = await answer
        except (BlobsUnavailable, BlobLost, InvalidRequest) as exc:
            return CutOff(BODY_UNREADABLE, exc.message, perf_counter() - began)
        except TimeoutError:
            self._call_off(number, "timeout")
            return TimedOut("answer", perf_counter() - began)
        except asyncio.CancelledError:
            self._call_off(number, "given_back")
            raise
        finally:
            self._under_way.pop(number, None)
        return outcome_of(reply, perf_counter() - began, self._most_response_bytes)

    def hear(self, reply: ListenedReply) -> None:
        """Take a reply; one to a request that is not under way is late, and ignored."""
        answer = self._under_way.get(reply.id)
        if answer is not None and not answer.done():
            answer.set_result(reply)

    def _call_off(self, number: int, reason: str) -> None:
        if not self._socket.gone:
            self._tasks.create_task(self._socket.send_message(cancel_message(number, reason)))


async def _body(request: OutboundRequest) -> bytes:
    """Return the body of a request, read from where it is stored if need be.

    Raises:
        InvalidRequest: it is larger than a listener is sent.
        BlobsUnavailable: it cannot be read now.
        BlobLost: it is gone.
    """
    if request.stream is None:
        return request.body
    if request.stream.size_bytes > MOST_BODY_BYTES:
        raise InvalidRequest(f"a listener is sent no body over {MOST_BODY_BYTES} bytes")
    return b"".join([piece async for piece in request.stream.open()])
