"""uvicorn's WebSocket protocol, with a close code that reaches the client.

- A message that is too large, or is not a WebSocket frame, ends the socket with a close code (1009, 1002, 1007).
  uvicorn closes the connection at once; the client is still sending, so its kernel gets a reset and the code is lost.
  Here further bytes are read and dropped until none have come for a moment, for a few seconds at most.
- Text messages are put into frames here: the library checks and copies more than a server needs that neither masks nor
  compresses, at a sixth of the cost of a job over a socket.
- A connection that is lost without a close frame is reported as 1006; uvicorn reports 1005, a close without a code.
- A client that answers no ping has gone, or has stopped reading. uvicorn closes its connection when all has been sent,
  which may be never; here it is closed after a moment.
- When the server ends, uvicorn answers a handshake that is under way with a 500, and the application's own answer fails
  an assertion after that. Here the application answers; if it accepts, the socket is closed with 1012.
- What a client sends before its handshake is answered is kept back, up to 64 KB. uvicorn reads it as frames at once: a
  ping would be answered before the handshake, and what is not a frame fails an assertion.

docs/decisions/0010-uvicorn-protocols.md lists the parts of uvicorn that are used here.
"""

from __future__ import annotations

import asyncio

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from toril.server.peer_address import unmapped

_EARLY_BYTES = 2**16
_LINGER_S = 5.0
_FIN_TEXT = 0x81  # RFC 6455 5.2: the whole message in one frame, and it is text
_QUIET_S = 0.5


def text_frame(payload: bytes) -> bytes:
    """Return one text message in a frame as a server sends it: unmasked (RFC 6455 5.2)."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (_FIN_TEXT, size, payload)
    if size < 65536:
        return b"%c\x7e%b%b" % (_FIN_TEXT, size.to_bytes(2), payload)
    return b"%c\x7f%b%b" % (_FIN_TEXT, size.to_bytes(8), payload)


class LingeringSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    _until = 0.0
    _ends = False
    _early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        super().connection_made(transport)
        self.client, self.server = unmapped(self.client), unmapped(self.server)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol. Keeps back what comes before the handshake has been answered."""
        if not self.handshake_initiated or self.handshake_complete:
            super().data_received(data)
            return
        self._early += data
        if len(self._early) > _EARLY_BYTES:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol. Reports a connection that was lost without a close frame as 1006."""
        if self.handshake_complete and self.conn.close_rcvd is None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        super().connection_lost(exc)

    def keepalive_timeout(self) -> None:
        """End a connection on which a ping has had no answer."""
        super().keepalive_timeout()
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(_QUIET_S, self.transport.abort)

    def shutdown(self) -> None:
        """Close the socket, once its handshake has been answered: the server shuts down."""
        self._ends = True
        if self.handshake_complete or not self.handshake_initiated:
            super().shutdown()

    async def send(self, message: ASGISendEvent) -> None:
        """Part of ASGI. A handshake that was answered with a refusal is complete, too."""
        if message["type"] == "websocket.send" and self.conn.state is State.OPEN and not self.close_sent:
            text = message.get("text")
            if text is not None:
                await self.writable.wait()
                if self.disconnected or self.conn.state is not State.OPEN:
                    raise ClientDisconnected
                self.transport.write(text_frame(text.encode()))
                return
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True
        elif message["type"] == "websocket.accept":
            if self._early:
                early, self._early = self._early, b""
                super().data_received(early)
            if self._ends:
                super().shutdown()

    def handle_parser_exception(self) -> None:
        """Close a socket whose frames cannot be read, and drop what comes after that."""
        if self.close_sent:
            if self.close_timer is not None and self.loop.time() < self._until:
                self.close_timer.cancel()
                self.close_timer = self.loop.call_later(_QUIET_S, self.transport.close)
            return
        sent = self.conn.close_sent
        assert sent is not None  # noqa: S101 - the parser fails with a close frame
        self.queue.put_nowait({"type": "websocket.disconnect", "code": sent.code, "reason": sent.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.stop_keepalive()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._until = self.loop.time() + _LINGER_S
        self.close_timer = self.loop.call_later(_QUIET_S, self.transport.close)
