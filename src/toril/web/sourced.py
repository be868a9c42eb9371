"""Responses of the async proxy itself, as opposed to an upstream's: the only module that sets `X-Proxq-Source`.

Every answer made here carries it, and no replayed, cached or direct answer does: clients branch on it
(wire/proxq.md). Bodies are JSON; errors are `{"code","message"}`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from toril.core.http.headers import Header
from toril.web.responses import JSON, BytesResponse

SOURCE: Header = (b"x-proxq-source", b"proxq")

_encode = msgspec.json.Encoder().encode


class ProxyError(Struct, frozen=True):
    """The body of an error."""

    code: str
    message: str


class OwnError(Struct, frozen=True):
    """An error of the async proxy: its code and message in proxq's form, and when it is returned."""

    code: str
    message: str
    when: str


ERRORS = {
    400: OwnError(
        "BAD_REQUEST",
        "Bad Request",
        "a header for toril has an invalid value, the path leads out of the upstream's own path, or there is not "
        "exactly one valid `Host`",
    ),
    404: OwnError("NOT_FOUND", "Not found", "there is no such job, or it has no answer yet"),
    408: OwnError("REQUEST_TIMEOUT", "Request Timeout", "the request did not arrive completely in time"),
    413: OwnError("PAYLOAD_TOO_LARGE", "Payload Too Large", "the body is larger than the upstream's `maxBodySize`"),
    422: OwnError("UNPROCESSABLE_ENTITY", "Unprocessable Entity", "the `Idempotency-Key` was used for another request"),
    429: OwnError(
        "TOO_MANY_REQUESTS", "Too Many Requests", "the request's group has as many waiting requests as it may have"
    ),
    431: OwnError(
        "REQUEST_HEADER_FIELDS_TOO_LARGE",
        "Request Header Fields Too Large",
        "the request's head, or the framing around the chunks of its body, is larger than `max_head_bytes`",
    ),
    500: OwnError("INTERNAL_SERVER_ERROR", "Internal Server Error", "Redis does not answer, or toril has a fault"),
    501: OwnError("NOT_IMPLEMENTED", "Not Implemented", "the body is in another transfer coding than `chunked`"),
    502: OwnError(
        "BAD_GATEWAY",
        "Bad Gateway",
        "past the queue: the upstream cannot be reached, hangs up, or sends an answer that cannot be passed on",
    ),
    503: OwnError("SERVICE_UNAVAILABLE", "Service Unavailable", "toril shuts down"),
    504: OwnError("GATEWAY_TIMEOUT", "Gateway Timeout", "past the queue: the upstream does not answer in time"),
}


def own(status: int, body: bytes, *headers: Header) -> BytesResponse:
    """Return a response of the async proxy with this JSON body."""
    return BytesResponse(body, status, JSON, (SOURCE, *headers))


def own_error(status: int, *headers: Header, detail: str | None = None) -> BytesResponse:
    """Return an error of the async proxy in proxq's words; `detail` says more if proxq has no such error."""
    error = ERRORS[status]
    return own(status, _encode(ProxyError(error.code, detail or error.message)), *headers)


def is_own(headers: Iterable[Header]) -> bool:
    """Return True if these are the headers of a response made here. Compared by identity, not by the header: an
    upstream may be a proxq itself.
    """
    for pair in headers:  # noqa: SIM110 - once for every request, and `any` costs more
        if pair is SOURCE:
            return True
    return False


def redirect(location: bytes) -> BytesResponse:
    """Return a 307 redirect to the upstream."""
    return own(307, b"", (b"location", location))
