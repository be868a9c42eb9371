"""The ASGI application: route lookup → authentication → handler → answer; errors become answers in one place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from toril.core.errors import NotFound, ShuttingDown, TorilError
from toril.gateway.auth import SUBPROTOCOL, Tokens, socket_authorization
from toril.gateway.problems import problem, unexpected
from toril.gateway.routing import Access, Answer, Request, Route, RouteTable, SocketRoute
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
        body = answer.body
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [
                    (b"content-type", answer.content_type),
                    (b"content-length", b"%d" % len(body)),
                    *answer.headers,
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        segments: list[bytes] = scope["raw_path"].split(b"/")
        route = self.table.match(scope["method"], segments)
        if route is None:
            return _NOT_FOUND
        request = Request(scope, receive, segments)
        try:
            if route.access is Access.TOKEN:
                self._tokens.check(request.authorization)
                if self.draining:
                    raise ShuttingDown
            return await route.handler(request)
        except TorilError as error:
            return problem(error)
        except Exception:
            return unexpected()

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One WebSocket: let in or refused before the handshake, served until it is closed."""
        await receive()  # websocket.connect
        try:
            segments: list[bytes] = scope["raw_path"].split(b"/")
            route = self.socket_table.match("GET", segments)
            if route is None:
                raise NotFound
            request = Request(scope, receive, segments)
            self._tokens.check(socket_authorization(request.authorization, request.query(), scope["subprotocols"]))
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


def _refused(answer: Answer) -> dict[str, Any]:
    headers = [(b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body)), *answer.headers]
    return {"type": "websocket.http.response.start", "status": answer.status, "headers": headers}
