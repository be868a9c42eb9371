"""uvicorn's WebSocket protocol, with a close that arrives.

A message that is too large, or is no WebSocket frame, ends the socket with a close code (1009, 1002, 1007). uvicorn
then closes the connection at once; the client is still sending, so its kernel gets a reset and the code is lost. Here
what still comes is read and dropped until nothing has come for a moment, for a few seconds at most.

A client that answers no ping is gone, or has stopped reading. uvicorn closes its connection when all has been sent,
which may be never; here that has a moment.
"""

from __future__ import annotations

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_LINGER_S = 5.0
_QUIET_S = 0.5


class LingeringSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    _until = 0.0

    def keepalive_timeout(self) -> None:
        """Called when a ping has had no answer."""
        super().keepalive_timeout()
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(_QUIET_S, self.transport.abort)

    async def send(self, message: ASGISendEvent) -> None:
        """Called with what the application sends. A handshake that was answered with a refusal is complete, too."""
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
