"""One accepted WebSocket, as the handlers deal with it: JSON texts in, JSON texts out, and a way to be told to end.

Sending to a socket that is gone does nothing: whoever reads from it learns of that. A reader that is too slow makes
`send` wait, so what is not sent yet is bounded by what the sender has under way.
"""

from __future__ import annotations

import contextlib
from codecs import BOM_UTF8
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Send

TRY_AGAIN = 1013
"""Try Again Later: what this socket needs, such as Redis, cannot serve now."""
GOING_AWAY = 1012
"""Service Restart: connect again, to another instance if there is one."""
_CLEAN = frozenset({1000, 1001, 1005, 1012})
_APPLICATIONS_OWN = 3000
NOT_ALLOWED = 4001
"""The token is gone, has expired or has lost the right; connecting again with it would be refused."""


def _nothing() -> None:
    pass


class Socket:
    """A WebSocket after its handshake.

    `on_drain` is called once, from the event loop, when the instance shuts down.
    """

    __slots__ = ("_receive", "_send", "gone", "on_drain", "vanished")

    def __init__(self, receive: Receive, send: Send) -> None:
        self.gone = False
        self.vanished = False
        """True once the other side is gone without closing the socket properly (RFC 6455 7.1.5 and 7.4.1)."""
        self.on_drain: Callable[[], object] = _nothing
        self._receive = receive
        self._send = send

    async def receive(self) -> bytes | None:
        """The next message, text or binary alike, without a byte order mark; None when the socket is closed."""
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

    async def send(self, text: bytes) -> None:
        """Send one JSON text."""
        await self._tell({"type": "websocket.send", "text": text.decode(errors="replace")})

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket; `receive` then returns None."""
        await self._tell({"type": "websocket.close", "code": code, "reason": reason})
        self.gone = True

    async def _tell(self, message: dict[str, Any]) -> None:
        if self.gone:
            return
        # uvicorn says so with OSError when the other side has gone, and with RuntimeError after a close.
        with contextlib.suppress(OSError, RuntimeError):
            await self._send(message)
