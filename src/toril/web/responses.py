"""Responses: Starlette's, for bodies and headers in bytes, and for streams that end when the caller loses its right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import ClassVar

import structlog
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from toril.core.errors import TorilError, unwrapped
from toril.core.http.headers import Header
from toril.core.metrics import OPEN_STREAMS
from toril.web.access_control import staying
from toril.web.request_metrics import Observed, observed

log = structlog.get_logger(__name__)

JSON = b"application/json"
PLAIN = b"text/plain;charset=utf-8"


class BytesResponse(Response):
    """A whole response. Nothing is parsed or encoded: headers are bytes with lower-case names."""

    def __init__(
        self, body: bytes = b"", status_code: int = 200, content_type: bytes = JSON, headers: Iterable[Header] = ()
    ) -> None:
        self.status_code = status_code
        self.body = body
        self.background = None
        self.content_type = content_type
        self._further = headers
        self._raw_headers: list[Header] | None = None

    @property
    def raw_headers(self) -> list[Header]:
        """All headers, as in Starlette's responses. They are made when they are asked for: most answers need none."""
        if self._raw_headers is None:
            # RFC 9110 8.6: no length where there can be no content.
            sized = self.status_code != 204
            length = b"%d" % len(self.body)
            own = ((b"content-type", self.content_type), (b"content-length", length)) if sized else ()
            self._raw_headers = [*own, *self._further]
        return self._raw_headers

    @raw_headers.setter
    def raw_headers(self, headers: list[Header]) -> None:
        self._raw_headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; also in place of a WebSocket's handshake."""
        if isinstance(send, Observed):
            if self._raw_headers is None and self._further == () and self.status_code != 204:
                sent = send.answer_typed(self.status_code, self.content_type, bytes(self.body))
            else:
                sent = send.answer(self.status_code, self.raw_headers, self.body)
            if sent:
                return
        kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
        await send({"type": kind + ".start", "status": self.status_code, "headers": self.raw_headers})
        body = b"" if scope.get("method") == "HEAD" else self.body
        await send({"type": kind + ".body", "body": body})


def json_response(body: bytes, status_code: int = 200) -> BytesResponse:
    """Return a response of this JSON text."""
    return BytesResponse(body, status_code)


NO_CONTENT = BytesResponse(status_code=204)
OK = BytesResponse(b"OK", content_type=PLAIN)


class StreamResponse(StreamingResponse):
    """A response that lasts until its parts end, the caller hangs up, or the caller's token loses the right to it.

    The first part exists before the response begins, so what goes wrong until then is still an error with a status.
    """

    fixed_headers: ClassVar[tuple[Header, ...]] = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))

    def __init__(
        self,
        first: bytes,
        parts: AsyncGenerator[bytes, None],
        content_type: bytes = JSON,
        headers: Iterable[Header] = (),
    ) -> None:
        self.status_code = 200
        self.background = None
        self.content_type = content_type
        self.first = first
        self.body_iterator = self.parts = parts
        self.raw_headers = [(b"content-type", content_type), *self.fixed_headers, *headers]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, part by part."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if scope["method"] == "HEAD":
            await self.parts.aclose()
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        revoked = asyncio.Event()
        with observed(scope).open(OPEN_STREAMS), staying(scope, revoked.set), unwrapped():
            await send(start)
            await self._send_until(receive, send, revoked)

    async def _send_until(self, receive: Receive, send: Send, revoked: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            hanging_up = tasks.create_task(_hung_up(receive))
            sending = tasks.create_task(self._send_parts(send))
            revoking = tasks.create_task(revoked.wait())
            await asyncio.wait((hanging_up, sending, revoking), return_when=asyncio.FIRST_COMPLETED)
            for task in (hanging_up, sending, revoking):
                task.cancel()
        if revoked.is_set() and sending.cancelled():
            await send({"type": "http.response.body", "body": b""})

    async def _send_parts(self, send: Send) -> None:
        async with aclosing(self.parts) as parts:
            await send({"type": "http.response.body", "body": self.first, "more_body": True})
            try:
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except TorilError as error:  # the response ends, and the caller resumes where it was
                log.warning("stream.ended", error=error.message)
        await send({"type": "http.response.body", "body": b""})


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
