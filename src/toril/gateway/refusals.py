"""Answers to requests that never reach the application, because they do not come whole or there is no room for them: in
the form of the door that they are for, as far as that is known by then.
"""

from __future__ import annotations

from toril.core.errors import InvalidRequest, TorilError
from toril.gateway.exact import origin_form
from toril.gateway.problems import problem
from toril.gateway.proxy import ProxyDoor
from toril.gateway.routing import Answer, Route, RouteTable
from toril.gateway.sourced import own_error


class Refusals:
    """Makes these answers.

    Args:
        table: the routes of toril's own application.
        door: the async proxy's, where there is one.
    """

    def __init__(self, table: RouteTable[Route], door: ProxyDoor | None = None) -> None:
        self._table = table
        self._door = door

    def __call__(self, method: str, target: bytes, error: TorilError) -> Answer:
        """Return the answer to a request with this method and raw target; both are empty where they are not known."""
        path = origin_form(target).partition(b"?")[0]
        if self._door is not None:
            below = self._door.below_api(path)
            if below is None:
                detail = error.message if isinstance(error, InvalidRequest) and error.field is not None else None
                return own_error(error.status, *_retry_after(error), detail=detail)
            path = below
        route = self._table.match(method, path.split(b"/"))
        return problem(error, own=route is not None and route.own)


def _retry_after(error: TorilError) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"retry-after", b"1"),) if error.status == 503 else ()
