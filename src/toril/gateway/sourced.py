"""What the async proxy itself says, as opposed to what an upstream said: the one place that sets `X-Proxq-Source`.

Every answer made here carries it, and no replayed, cached or direct answer does: clients branch on it
(wire/proxq.md). Bodies are JSON; errors are `{"code","message"}`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct
from starlette.types import Send

from toril.core.headers import Header
from toril.gateway.routing import Answer

SOURCE: Header = (b"x-proxq-source", b"proxq")
JSON = b"application/json"

_encode = msgspec.json.Encoder().encode


class ProxyError(Struct, frozen=True):
    """The body of an error."""

    code: str
    message: str


class OwnError(Struct, frozen=True):
    """An error of our own: its code and message in proxq's manner, and when it is answered."""

    code: str
    message: str
    when: str


ERRORS = {
    400: OwnError(
        "BAD_REQUEST",
        "Bad Request",
        "a header for toril does not say what it should, the path leads out of the upstream's own path, or there is "
        "not one sound `Host`",
    ),
    404: OwnError("NOT_FOUND", "Not found", "there is no such job, or it has no answer yet"),
    408: OwnError("REQUEST_TIMEOUT", "Request Timeout", "the request did not come whole in time"),
    413: OwnError("PAYLOAD_TOO_LARGE", "Payload Too Large", "the body is larger than the upstream's `maxBodySize`"),
    422: OwnError(
        "UNPROCESSABLE_ENTITY", "Unprocessable Entity", "the `Idempotency-Key` came with another request before"
    ),
    431: OwnError(
        "REQUEST_HEADER_FIELDS_TOO_LARGE",
        "Request Header Fields Too Large",
        "the request's head, or what stands around the chunks of its body, is larger than `max_head_bytes`",
    ),
    500: OwnError("INTERNAL_SERVER_ERROR", "Internal Server Error", "Redis is not there, or a fault of toril's"),
    501: OwnError("NOT_IMPLEMENTED", "Not Implemented", "the body is in another transfer coding than `chunked`"),
    502: OwnError(
        "BAD_GATEWAY",
        "Bad Gateway",
        "past the queue: the upstream cannot be reached, hangs up, or answers what cannot be passed on",
    ),
    503: OwnError("SERVICE_UNAVAILABLE", "Service Unavailable", "toril shuts down"),
    504: OwnError("GATEWAY_TIMEOUT", "Gateway Timeout", "past the queue: the upstream says nothing in time"),
}


def own(status: int, body: bytes, *headers: Header) -> Answer:
    """An answer of our own with this JSON body."""
    return Answer(status, JSON, body, (SOURCE, *headers))


def own_error(status: int, *headers: Header, detail: str | None = None) -> Answer:
    """An error of our own, in proxq's words; `detail` says more where proxq has no such error."""
    error = ERRORS[status]
    return own(status, _encode(ProxyError(error.code, detail or error.message)), *headers)


def is_own(headers: Iterable[Header]) -> bool:
    """Whether these are the headers of an answer that was made here. By identity, not by what the header says: an
    upstream may be a proxq itself.
    """
    for pair in headers:  # noqa: SIM110 - once for every request, and `any` costs more
        if pair is SOURCE:
            return True
    return False


def redirect(location: bytes) -> Answer:
    """307 to where the upstream is."""
    return Answer(307, JSON, b"", (SOURCE, (b"location", location)))


async def send_own(answer: Answer, send: Send, *, is_socket: bool = False) -> None:
    """Send an answer of our own, also in place of a WebSocket's handshake."""
    kind = "websocket.http.response" if is_socket else "http.response"
    headers = [(b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body)), *answer.headers]
    await send({"type": f"{kind}.start", "status": answer.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": answer.body})
