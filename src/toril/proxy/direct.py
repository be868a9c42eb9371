"""The port for requests that bypass the queue."""

from __future__ import annotations

from typing import Protocol

from starlette.types import Receive, Scope, Send

from toril.proxy.rules.upstream import Upstream


class Direct(Protocol):
    """Carries a request to its upstream and the answer back, both as they come."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send, upstream: Upstream, target: bytes) -> None:
        """Serve one request, or one WebSocket whose `websocket.connect` has not been received yet.

        Args:
            scope: as the server made it; nothing of the request has been read.
            receive: ASGI's.
            send: ASGI's.
            upstream: where it goes.
            target: the raw target without the upstream's prefix; `upstream.forwarded(target)` is what is asked for.
        """
        ...
