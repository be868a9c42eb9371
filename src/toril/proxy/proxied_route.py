"""`ProxiedRoute`: a route of the async proxy, whose errors are proxq's (wire/proxq.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import structlog
from starlette.responses import Response
from starlette.types import Scope, Send

from toril.core.errors import GroupFull, IdempotencyMismatch, InvalidRequest, PayloadTooLarge, ShuttingDown, TorilError
from toril.core.http.headers import Header
from toril.core.metrics import OTHER
from toril.redis.confirmations import Unconfirmed
from toril.web.access_control import Access
from toril.web.openapi.description import ProxiedAbout
from toril.web.raw_target import cut_off
from toril.web.request_metrics import CLASSES, UPSTREAM_CLASSES, method_label
from toril.web.routing import Route
from toril.web.sourced import is_own, own_error

log = structlog.get_logger(__name__)


UNDESCRIBED = ProxiedAbout("", (), ())


class ProxiedRoute(Route):
    """A route of the async proxy. It needs no API token; `described` is what the OpenAPI document says of it.

    A request whose caller hangs up before there is a response is measured too.
    """

    counts_unanswered = True

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        method: str = "GET",
        described: ProxiedAbout = UNDESCRIBED,
        name: str | None = None,
    ) -> None:
        super().__init__(path, endpoint, method=method, access=Access.OPEN, name=name)
        self.described = described

    def error_response(self, error: Exception) -> Response:
        """Return the response to a request for this route that failed."""
        return proxy_error(error)

    async def broken_off(self, error: Exception, scope: Scope, send: Send) -> None:
        """Cut off a response that cannot be completed, so that the client can tell."""
        if not isinstance(error, TorilError):
            raise error
        log.warning("proxy.broken_off", error=error.message, code=error.code)
        await cut_off(scope, send)

    def labels(self, method: str, status: int, headers: Iterable[Header]) -> tuple[str, str, str]:
        """Return the labels of a request in metrics. A status of an upstream's is told from toril's own."""
        classes = CLASSES if is_own(headers) else UPSTREAM_CLASSES
        return method_label(method), self.path, classes.get(status, OTHER)


def proxy_error(error: Exception) -> Response:
    """Return the response to a request that failed, as proxq has it."""
    match error:
        case PayloadTooLarge():
            return own_error(413)
        case InvalidRequest():
            return own_error(400, detail=error.message if error.field is not None else None)
        case IdempotencyMismatch():
            return own_error(422, detail=error.message)
        case GroupFull():
            return own_error(429, (b"retry-after", b"1"), detail=error.message)
        case ShuttingDown():
            return own_error(503, (b"retry-after", b"1"))
        case Unconfirmed():
            return own_error(503, (b"retry-after", b"1"), detail=error.message)
        case TorilError():
            log.warning("proxy.failed", error=error.message, code=error.code)
            return own_error(500, (b"retry-after", b"1"))
        case _:
            log.error("request.crashed", exc_info=error)
            return own_error(500)
