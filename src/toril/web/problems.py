"""Errors as responses, in one place. Routes of BullMQ Proxy answer in plain text, as their clients expect; ours with
problem details (RFC 9457).
"""

from __future__ import annotations

import math
from http import HTTPStatus

import msgspec
import structlog

from toril.core.errors import (
    BlobsUnavailable,
    CannotServe,
    ConnectionLost,
    LedgerElsewhere,
    LedgerUnavailable,
    MethodNotAllowed,
    RateLimited,
    ShuttingDown,
    StoreTimeout,
    StoreUnavailable,
    TooManyConnections,
    TorilError,
)
from toril.core.http.headers import Header
from toril.redis.confirmations import Unconfirmed
from toril.web.responses import PLAIN, BytesResponse

log = structlog.get_logger(__name__)

PROBLEM = b"application/problem+json"
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)  # RFC 9110 11.6.1: every 401 has one
_AWAY = b"Redis is not available, try again"
_REFUSES = b"Redis cannot serve now (it is full, read-only or busy), try again"
_BODIES = b"The store of large bodies is not available, try again"
_UNKNOWN = b"Redis did not answer, so whether anything was written is unknown"
_LEDGER = b"The ledger is not available, so nothing was accepted for certain: try again, best with an idempotency key"


def error_response(error: Exception, *, own: bool = False) -> BytesResponse:
    """Return the response to a request that failed."""
    return problem(error, own=own) if isinstance(error, TorilError) else unexpected(error, own=own)


def problem(error: TorilError, *, own: bool = False) -> BytesResponse:
    """Return the response to a request that failed with an error of toril's.

    `toril-code` has the error's code, as texts change. With `own` the body is problem details.
    """
    text, headers = _text(error)
    headers = (*headers, (b"toril-code", error.code.encode()))
    if not own:
        return BytesResponse(text, error.status, PLAIN, headers)
    details = {} if error.status in {500, 503} else error.details()
    return BytesResponse(_details(error.status, text, error.code, **details), error.status, PROBLEM, headers)


def _text(error: TorilError) -> tuple[bytes, tuple[Header, ...]]:
    """Return the text of an error, and its headers."""
    if isinstance(error, (StoreUnavailable, ShuttingDown, TooManyConnections, RateLimited)):
        retry_after = (b"retry-after", b"%d" % math.ceil(error.retry_after_s))
        if isinstance(error, StoreUnavailable):
            log.warning("request.store_unavailable", error=error.message)
            return _away(error), (retry_after,)
        close = ((b"connection", b"close"),) if isinstance(error, ShuttingDown) else ()
        return error.message.encode(), (retry_after, *close)
    if isinstance(error, MethodNotAllowed):
        return error.message.encode(), ((b"allow", error.allowed.encode()),)
    if error.status == 401:
        return error.message.encode(errors="replace"), _CHALLENGE
    if error.status >= 500 and error.status != 501:  # that is about what the caller asks for
        log.error("request.failed", error=error.message, code=error.code)
        return b"Internal error: " + error.code.encode(), ()
    if error.status == 413:
        # The rest of the body is not read, so the connection cannot be used again.
        return error.message.encode(), ((b"connection", b"close"),)
    return error.message.encode(errors="replace"), ()


def _away(error: StoreUnavailable) -> bytes:
    match error:
        case LedgerElsewhere() | Unconfirmed():
            return error.message.encode()
        case LedgerUnavailable():
            return _LEDGER
        case BlobsUnavailable():
            return _BODIES
        case CannotServe():
            return _REFUSES
        case ConnectionLost() | StoreTimeout():
            return _UNKNOWN
        case _:
            return _AWAY


def unexpected(error: Exception, *, own: bool = False) -> BytesResponse:
    """Return the response to a request that failed with an internal error; the log has the details."""
    log.error("request.crashed", exc_info=error)
    text = b"Internal error"
    if own:
        return BytesResponse(_details(500, text, TorilError.code), 500, PROBLEM)
    return BytesResponse(text, 500, PLAIN)


def _details(status: int, text: bytes, code: str, **more: object) -> bytes:
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": code}
    return msgspec.json.encode(document | {"detail": text.decode()} | more)
