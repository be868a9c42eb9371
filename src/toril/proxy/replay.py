"""Replays a recorded response: status, headers and body as they came, without additions.

Headers that end at a proxy are left out, and the length is that of the body that goes out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from toril.core.errors import BlobLost, BlobsUnavailable
from toril.core.http.headers import Header, end_to_end
from toril.proxy.ports import Bodies
from toril.proxy.rules.envelope import RecordedResponse
from toril.web.raw_target import REASON, add_nothing
from toril.web.sourced import own_error

log = structlog.get_logger(__name__)

_BODILESS = frozenset({204, 304})


class ReplayedResponse(Response):
    """A recorded response. A missing body becomes a 500 of toril; if the body ends early, the response is cut off."""

    def __init__(self, recorded: RecordedResponse, bodies: Bodies) -> None:
        self.status_code = recorded.status
        self.background = None
        self._recorded = recorded
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        recorded, is_head, bodiless = self._recorded, scope["method"] == "HEAD", self.status_code in _BODILESS
        if recorded.blob is None or is_head or bodiless:
            size = len(recorded.body) if recorded.blob is None else recorded.blob.size_bytes
            await self._begin(size, scope, send)
            await send({"type": "http.response.body", "body": b"" if bodiless or is_head else recorded.body})
            return
        pieces = aiter(self._bodies.stream(recorded.blob))
        try:
            first = await anext(pieces, b"")
        except (BlobLost, BlobsUnavailable) as exc:
            log.error("replay.body_missing", blob=recorded.blob.name, error=exc.message)
            await own_error(500)(scope, receive, send)
            return
        await self._begin(recorded.blob.size_bytes, scope, send)
        await _send_pieces(first, pieces, send)

    async def _begin(self, size: int, scope: Scope, send: Send) -> None:
        add_nothing(scope)
        headers = sent_headers(self._recorded, size, is_head=scope["method"] == "HEAD")
        reason = self._recorded.reason.encode("latin-1")
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers, REASON: reason})


async def _send_pieces(first: bytes, pieces: AsyncIterator[bytes], send: Send) -> None:
    async with aclosing(pieces):  # type: ignore[type-var]
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def sent_headers(response: RecordedResponse, size: int, *, is_head: bool) -> list[Header]:
    """Return the headers that go out with a body of this size: the upstream's, with a length that is true.

    A HEAD's answer keeps the length that the upstream gave, because it says how long the body would be. Where it gave
    none, there is one only if there is a body here to count.
    """
    headers = end_to_end(response.headers)
    lengths = [pair for pair in headers if pair[0].lower() == b"content-length"]
    if response.status == 304 or (is_head and (lengths or not size)):
        return headers  # a length in it is that of what it stands for
    if response.status == 204:  # no length where there can be no content (RFC 9110 8.6)
        return [pair for pair in headers if pair[0].lower() != b"content-length"]
    if len(lengths) == 1 and lengths[0][1] == b"%d" % size:
        return headers
    others = [pair for pair in headers if pair[0].lower() != b"content-length"]
    return [*others, (b"content-length", b"%d" % size)]
