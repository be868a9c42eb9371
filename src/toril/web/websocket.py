"""`WebSocket`: Starlette's, with JSON texts as bytes, and closed at shutdown.

Sending to a closed socket does nothing: reading from it tells. A slow reader makes sending wait, so the data that waits
to be sent is limited to what the sender has under way.
"""

from __future__ import annotations

import asyncio
import contextlib
from codecs import BOM_UTF8
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import structlog
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket as StarletteWebSocket

from toril.core.errors import TorilError, unwrapped
from toril.core.metrics import OPEN_SOCKETS
from toril.web.access_control import staying
from toril.web.auth import SUBPROTOCOL
from toril.web.request import Connection
from toril.web.request_metrics import observed

log = structlog.get_logger(__name__)

TRY_AGAIN = 1013
"""Try Again Later: what this socket needs, such as Redis, cannot serve now."""
GOING_AWAY = 1012
"""Service Restart: connect again, to another instance if there is one."""
_CLEAN = frozenset({1000, 1001, 1005, 1012})
_APPLICATIONS_OWN = 3000
NOT_ALLOWED = 4001
"""The token is gone, has expired or has lost the right; connecting again with it would be refused."""
_REASON = 40
"""How many characters of a message are a close reason: UTF-8 may make three bytes of each, of 123 (RFC 6455 5.5)."""
_SOCKETS = "toril.open_sockets"


def _nothing() -> None:
    pass


class WebSocket(Connection, StarletteWebSocket):
    """One WebSocket. Until `accept`, an error refuses its handshake with the status that it has over HTTP.

    `on_drain` is called once, from the event loop, when the instance shuts down.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        StarletteWebSocket.__init__(self, scope, receive, send)
        self.gone = False
        self.vanished = False
        """True once the other side is gone without closing the socket properly (RFC 6455 7.1.5 and 7.4.1)."""
        self.on_drain: Callable[[], object] = _nothing
        self.accepted = False

    async def accept(
        self, subprotocol: str | None = None, headers: Iterable[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Complete the handshake, with our subprotocol if the client offers it."""
        offered = SUBPROTOCOL if SUBPROTOCOL in self.scope["subprotocols"] else None
        await super().accept(subprotocol or offered, headers)
        self.accepted = True

    async def serve(self, work: Callable[[], Awaitable[None]]) -> None:
        """Complete the handshake and run this work, which ends when the socket is closed.

        Meanwhile the socket counts as open, is told of a shutdown, and is closed when its token loses the right to it.
        """
        await self.accept()
        sockets: OpenSockets = self.scope.get(_SOCKETS) or OpenSockets()
        with observed(self.scope).open(OPEN_SOCKETS), sockets.including(self):
            async with asyncio.TaskGroup() as tasks:

                def revoke() -> None:
                    tasks.create_task(self.close(NOT_ALLOWED, "the token is no longer valid for this"))

                with staying(self.scope, revoke):
                    await work()

    async def receive_message(self) -> bytes | None:
        """Return the next message, text or binary alike, without a byte order mark; None when the socket is closed."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            code = message["code"]
            self.vanished = not (self.gone or code in _CLEAN or code >= _APPLICATIONS_OWN)
            self.gone = True
            return None
        text: str | None = message.get("text")
        if text is not None:
            return text.encode(errors="surrogatepass").removeprefix(BOM_UTF8)
        data: bytes = message.get("bytes") or b""
        return data.removeprefix(BOM_UTF8)

    async def send_message(self, text: bytes) -> None:
        """Send one JSON text."""
        await self._tell({"type": "websocket.send", "text": text.decode(errors="replace")})

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Close the socket; `receive_message` then returns None."""
        await self._tell({"type": "websocket.close", "code": code, "reason": reason or ""})
        self.gone = True

    async def _tell(self, message: dict[str, Any]) -> None:
        if self.gone:
            return
        # uvicorn says so with OSError when the other side has gone, and with RuntimeError after a close.
        with contextlib.suppress(OSError, RuntimeError):
            await self._send(message)


class OpenSockets:
    """The open sockets, which are told of a shutdown."""

    def __init__(self) -> None:
        self._open: set[WebSocket] = set()

    @contextlib.contextmanager
    def including(self, socket: WebSocket) -> Iterator[None]:
        """Add a socket for the duration of a block."""
        self._open.add(socket)
        try:
            yield
        finally:
            self._open.discard(socket)

    def drain(self) -> None:
        """Tell every socket to end."""
        for socket in list(self._open):
            socket.on_drain()


class SocketLifetime:
    """Middleware of a WebSocket's route: registers each socket, so that it is told of a shutdown."""

    def __init__(self, app: ASGIApp, sockets: OpenSockets) -> None:
        self.app = app
        self._sockets = sockets

    @staticmethod
    def applies_to(route: Any) -> bool:
        """Return True if a route is of WebSockets."""
        return isinstance(route, WebSocketRoute)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one socket."""
        scope[_SOCKETS] = self._sockets
        return self.app(scope, receive, send)


Endpoint = Callable[[WebSocket], Awaitable[None]]
"""Checks a handshake, accepts it, and serves the socket until it is closed."""


def socket_app(endpoint: Endpoint) -> ASGIApp:
    """Return an ASGI application that serves sockets with an endpoint: Starlette's `websocket_session`, in which errors
    close the socket with a code that says why.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        try:
            with unwrapped():
                await endpoint(socket)
        except TorilError as error:
            if not socket.accepted:
                raise
            log.warning("socket.ended", path=scope["path"], error=error.message)
            await socket.close(TRY_AGAIN, error.message[:_REASON])
        except Exception:
            if not socket.accepted:
                raise
            log.exception("socket.crashed", path=scope["path"])
            await socket.close(1011, "internal error")

    return app
