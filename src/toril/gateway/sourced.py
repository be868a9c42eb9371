"""What the async proxy itself says, as opposed to what an upstream said: the one place that sets `X-Proxq-Source`.

Every answer made here carries it, and no replayed, cached or direct answer does: clients branch on it
(wire/proxq.md). Bodies are JSON; errors are `{"code","message"}`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from starlette.types import Send

from toril.core.headers import Header
from toril.gateway.routing import Answer

SOURCE: Header = (b"x-proxq-source", b"proxq")
JSON = b"application/json"

_NAMES = {
    400: ("BAD_REQUEST", "Bad Request"),
    404: ("NOT_FOUND", "Not found"),
    413: ("PAYLOAD_TOO_LARGE", "Payload Too Large"),
    422: ("UNPROCESSABLE_ENTITY", "Unprocessable Entity"),
    500: ("INTERNAL_SERVER_ERROR", "Internal Server Error"),
    502: ("BAD_GATEWAY", "Bad Gateway"),
    503: ("SERVICE_UNAVAILABLE", "Service Unavailable"),
    504: ("GATEWAY_TIMEOUT", "Gateway Timeout"),
}


def own(status: int, body: bytes, *headers: Header) -> Answer:
    """An answer of our own with this JSON body."""
    return Answer(status, JSON, body, (SOURCE, *headers))


def own_error(status: int, *headers: Header, detail: str | None = None) -> Answer:
    """An error of our own, in proxq's words; `detail` says more where proxq has no such error."""
    code, message = _NAMES[status]
    return own(status, msgspec.json.encode({"code": code, "message": detail or message}), *headers)


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
