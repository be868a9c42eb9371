"""Gives a recorded response back: status, headers and body as they came, and nothing of our own.

Headers that end at a proxy are left out, and the length is that of the body that goes out. Called by the async proxy's
routes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import structlog
from starlette.types import Scope, Send

from toril.core.envelope import RecordedResponse
from toril.core.errors import BlobLost, BlobsUnavailable
from toril.core.headers import Header, end_to_end
from toril.core.ports.proxy import Bodies
from toril.gateway.exact import REASON, add_nothing
from toril.gateway.sourced import own_error, send_own

log = structlog.get_logger(__name__)

_BODILESS = frozenset({204, 304})


async def replay(response: RecordedResponse, bodies: Bodies, scope: Scope, send: Send) -> None:
    """Send a recorded response. A body that cannot be had any more is our own 500; one that ends early breaks off."""
    is_head = scope["method"] == "HEAD"
    bodiless = response.status in _BODILESS
    if response.blob is None or is_head or bodiless:
        size = len(response.body) if response.blob is None else response.blob.size_bytes
        await _begin(response, size, is_head=is_head, scope=scope, send=send)
        await send({"type": "http.response.body", "body": b"" if bodiless or is_head else response.body})
        return
    pieces = aiter(bodies.stream(response.blob))
    try:
        first = await anext(pieces, b"")
    except (BlobLost, BlobsUnavailable) as exc:
        log.error("replay.body_missing", blob=response.blob.name, error=exc.message)
        await send_own(own_error(500), send)
        return
    await _begin(response, response.blob.size_bytes, is_head=False, scope=scope, send=send)
    await _send_pieces(first, pieces, send)


async def _send_pieces(first: bytes, pieces: AsyncIterator[bytes], send: Send) -> None:
    async with aclosing(pieces):  # type: ignore[type-var]
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _begin(response: RecordedResponse, size: int, *, is_head: bool, scope: Scope, send: Send) -> None:
    add_nothing(scope)
    headers = sent_headers(response, size, is_head=is_head)
    reason = response.reason.encode("latin-1")
    await send({"type": "http.response.start", "status": response.status, "headers": headers, REASON: reason})


def sent_headers(response: RecordedResponse, size: int, *, is_head: bool) -> list[Header]:
    """The headers that go out with a body of this size: the upstream's, with a length that is true.

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
