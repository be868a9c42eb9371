"""uvicorn's WebSocket protocol, with a close that arrives.

A message that is too large, or is no WebSocket frame, ends the socket with a close code (1009, 1002, 1007). uvicorn
then closes the connection at once; the client is still sending, so its kernel gets a reset and the code is lost. Here
what still comes is read and dropped until nothing has come for a moment, for a few seconds at most.

Texts, which is what nearly everything is, are put into frames here: the library checks and copies more than a server
that neither masks nor compresses needs, at a sixth of what a job over a socket costs.

A connection that is lost without a close frame says so (1006); uvicorn reports it like a close without a code (1005).

A client that answers no ping is gone, or has stopped reading. uvicorn closes its connection when all has been sent,
which may be never; here that has a moment.
"""

from __future__ import annotations

import asyncio

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from toril.peer_address import unmapped

_LINGER_S = 5.0
_FIN_TEXT = 0x81  # RFC 6455 5.2: the whole message in one frame, and it is text
_QUIET_S = 0.5


def text_frame(payload: bytes) -> bytes:
    """One whole text message as a server sends it (RFC 6455 5.2): unmasked."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (_FIN_TEXT, size, payload)
    if size < 65536:
        return b"%c\x7e%b%b" % (_FIN_TEXT, size.to_bytes(2), payload)
    return b"%c\x7f%b%b" % (_FIN_TEXT, size.to_bytes(8), payload)


class LingeringSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    _until = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        super().connection_made(transport)
        self.client, self.server = unmapped(self.client), unmapped(self.server)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report a connection that was lost without a close frame as 1006."""
        if self.handshake_complete and self.conn.close_rcvd is None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        super().connection_lost(exc)

    def keepalive_timeout(self) -> None:
        """Called when a ping has had no answer."""
        super().keepalive_timeout()
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(_QUIET_S, self.transport.abort)

    async def send(self, message: ASGISendEvent) -> None:
        """Called with what the application sends. A handshake that was answered with a refusal is complete, too."""
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

    def handle_parser_exception(self) -> None:
        """Called for everything that comes once the frames cannot be read any more."""
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
