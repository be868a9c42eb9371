"""Responses to requests that never reach the application, because they do not come whole or there is no room for them:
in the form of the door that they are for, as far as that is known by then.
"""

from __future__ import annotations

from toril.core.errors import InvalidRequest, TorilError
from toril.proxy.routes import ProxyRouter
from toril.web.problems import problem
from toril.web.raw_target import origin_form
from toril.web.responses import BytesResponse
from toril.web.routing import IndexedRouter
from toril.web.sourced import own_error


class Refusals:
    """Makes these responses.

    Args:
        api: toril's own routes.
        proxy: the async proxy's, where there is one.
    """

    def __init__(self, api: IndexedRouter, proxy: ProxyRouter | None = None) -> None:
        self._api = api
        self._proxy = proxy

    def __call__(self, method: str, target: bytes, error: TorilError) -> BytesResponse:
        """Return the response to a request with this method and raw target; both are empty if they are not known."""
        path = origin_form(target).partition(b"?")[0]
        if self._proxy is not None:
            below = self._proxy.below_api(path)
            if below is None:
                detail = error.message if isinstance(error, InvalidRequest) and error.field is not None else None
                return own_error(error.status, *_retry_after(error), detail=detail)
            path = below
        route = self._api.find(method, path)
        return problem(error, own=route is not None and route.own)


def _retry_after(error: TorilError) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"retry-after", b"1"),) if error.status == 503 else ()
