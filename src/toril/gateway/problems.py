"""Errors as answers, in one place. The routes of BullMQ Proxy answer in plain text, as their clients expect; ours with
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
    UnknownTransferCoding,
)
from toril.gateway.routing import Answer

log = structlog.get_logger(__name__)

PLAIN = b"text/plain;charset=utf-8"
PROBLEM = b"application/problem+json"
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)  # RFC 9110 11.6.1: every 401 has one
_AWAY = b"Redis is not available, try again"
_REFUSES = b"Redis cannot serve now (it is full, read-only or busy), try again"
_BODIES = b"The store of large bodies is not available, try again"
_UNKNOWN = b"Redis did not answer, so whether anything was written is unknown"
_LEDGER = b"The ledger is not available, so nothing was accepted for certain: try again, best with an idempotency key"


def problem(error: TorilError, *, own: bool = False) -> Answer:
    """The answer to a request that failed in a way we know. `toril-code` has the error's code, as texts change."""
    answer = _answer(error)
    answer.headers = (*answer.headers, (b"toril-code", error.code.encode()))
    if own:
        answer.body = _details(answer, error.code, **({} if error.status in {500, 503} else error.details()))
        answer.content_type = PROBLEM
    return answer


def _answer(error: TorilError) -> Answer:
    if isinstance(error, (StoreUnavailable, ShuttingDown, TooManyConnections, RateLimited)):
        retry_after = (b"retry-after", b"%d" % math.ceil(error.retry_after_s))
        if isinstance(error, StoreUnavailable):
            log.warning("request.store_unavailable", error=error.message)
            return Answer(error.status, PLAIN, _away(error), (retry_after,))
        close = ((b"connection", b"close"),) if isinstance(error, ShuttingDown) else ()
        return Answer(error.status, PLAIN, error.message.encode(), (retry_after, *close))
    if isinstance(error, MethodNotAllowed):
        return Answer(405, PLAIN, error.message.encode(), ((b"allow", error.allowed.encode()),))
    if error.status == 401:
        return Answer(401, PLAIN, error.message.encode(errors="replace"), _CHALLENGE)
    if error.status >= 500 and not isinstance(error, UnknownTransferCoding):  # that is the caller's doing
        log.error("request.failed", error=error.message, code=error.code)
        return Answer(error.status, PLAIN, b"Internal error: " + error.code.encode())
    if error.status == 413:
        # What is left of the body is not read, so the connection cannot be used again.
        return Answer(413, PLAIN, error.message.encode(), ((b"connection", b"close"),))
    return Answer(error.status, PLAIN, error.message.encode(errors="replace"))


def _away(error: StoreUnavailable) -> bytes:
    match error:
        case LedgerElsewhere():
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


def unexpected(*, own: bool = False) -> Answer:
    """The answer to a request that hit a fault of ours; the log has the rest."""
    log.exception("request.crashed")
    answer = Answer(500, PLAIN, b"Internal error")
    if own:
        answer.body, answer.content_type = _details(answer, TorilError.code), PROBLEM
    return answer


def _details(answer: Answer, code: str, **more: object) -> bytes:
    status = HTTPStatus(answer.status)
    document = {"type": "about:blank", "title": status.phrase, "status": answer.status, "code": code}
    return msgspec.json.encode(document | {"detail": answer.body.decode()} | more)
