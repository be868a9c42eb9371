"""The ASGI application: route lookup → authentication → handler → answer; errors become answers in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from toril.core.errors import NotFound, ShuttingDown, TorilError
from toril.gateway.auth import SUBPROTOCOL, Tokens, socket_authorization
from toril.gateway.problems import problem, unexpected
from toril.gateway.routing import Access, Answer, Request, Route, RouteTable, SocketRoute, Stream, queue_at
from toril.gateway.sockets.socket import Socket

log = structlog.get_logger(__name__)

_NOT_FOUND = problem(NotFound())


class Gateway:
    """Everything that answers HTTP and WebSockets.

    Args:
        routes: of all modules.
        sockets: the routes of WebSockets.
        tokens: who may use those that need an API token.
    """

    def __init__(self, routes: Iterable[Route], tokens: Tokens, sockets: Iterable[SocketRoute] = ()) -> None:
        self.table = RouteTable(routes)
        self.socket_table = RouteTable(sockets)
        # While shutting down no new work is taken, but a worker may still report on what it has in flight.
        self.draining = False
        self._tokens = tokens
        self._open: set[Socket] = set()

    def drain(self) -> None:
        """Take no new work, and tell every socket to end."""
        self.draining = True
        for socket in list(self._open):
            socket.on_drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        answer = await self._answer(scope, receive)
        if isinstance(answer, Stream):
            try:
                await _send_stream(answer, receive, send)
            except asyncio.CancelledError:
                # The server ends, and this caller has stopped reading: there is no other way to be rid of it.
                if not self.draining:
                    raise
            return
        body = answer.body
        headers = [
            (b"content-type", answer.content_type),
            (b"content-length", b"%d" % len(body)),
            *answer.headers,
        ]
        if answer.status == 204:  # RFC 9110 8.6: no length where there can be no content
            headers = list(answer.headers)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer | Stream:
        segments: list[bytes] = scope["raw_path"].split(b"/")
        route = self.table.match(scope["method"], segments)
        if route is None:
            return _NOT_FOUND
        request = Request(scope, receive, segments)
        try:
            if route.access is Access.TOKEN:
                shown = request.authorization
                if shown is None and route.token_in_url:
                    shown = socket_authorization(None, request.query(), ())
                self._admit(request, route, shown)
                if self.draining:
                    raise ShuttingDown
            return await route.handler(request)
        except TorilError as error:
            return problem(error, own=route.own)
        except Exception:
            return unexpected(own=route.own)

    def _admit(self, request: Request, route: Route | SocketRoute, shown: bytes | None) -> None:
        """Who calls, and whether they may."""
        request.caller = caller = self._tokens.check(shown)
        if caller.everything:
            return
        place = queue_at(route.template)
        caller.demand(route.right, None if place is None else request.segment(place))

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One WebSocket: let in or refused before the handshake, served until it is closed."""
        await receive()  # websocket.connect
        try:
            segments: list[bytes] = scope["raw_path"].split(b"/")
            route = self.socket_table.match("GET", segments)
            if route is None:
                raise NotFound
            request = Request(scope, receive, segments)
            shown = socket_authorization(request.authorization, request.query(), scope["subprotocols"])
            self._admit(request, route, shown)
            if self.draining:
                raise ShuttingDown
            serve = await route.handler(request)
        except TorilError as error:
            answer = problem(error)
            await send(_refused(answer))
            await send({"type": "websocket.http.response.body", "body": answer.body})
            return
        await send(
            {
                "type": "websocket.accept",
                "subprotocol": SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None,
            }
        )
        socket = Socket(receive, send)
        self._open.add(socket)
        try:
            await serve(socket)
        except Exception:
            log.exception("socket.crashed", path=scope["path"])
            await socket.close(1011, "internal error")
        finally:
            self._open.discard(socket)


async def _send_stream(stream: Stream, receive: Receive, send: Send) -> None:
    """Send the parts as they come, until there are no more or the caller hangs up."""
    headers = [(b"content-type", stream.content_type), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async with asyncio.TaskGroup() as tasks:
        hanging_up = tasks.create_task(_hung_up(receive))
        sending = tasks.create_task(_send_parts(stream, send))
        await asyncio.wait((hanging_up, sending), return_when=asyncio.FIRST_COMPLETED)
        hanging_up.cancel()
        sending.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_parts(stream: Stream, send: Send) -> None:
    async with aclosing(stream.parts) as parts:
        await send({"type": "http.response.body", "body": stream.first, "more_body": True})
        try:
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except TorilError as error:  # it ends, and the caller comes back to where it was
            log.warning("stream.ended", error=error.message)
    await send({"type": "http.response.body", "body": b""})


def _refused(answer: Answer) -> dict[str, Any]:
    headers = [(b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body)), *answer.headers]
    return {"type": "websocket.http.response.start", "status": answer.status, "headers": headers}
