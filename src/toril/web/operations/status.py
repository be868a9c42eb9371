"""`/`, `/health` and `/ready`: the banner, whether the process is alive, and whether work is moving."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from toril.web import shapes
from toril.web.access_control import Access
from toril.web.openapi.description import About, Reply
from toril.web.request import Request
from toril.web.responses import PLAIN, BytesResponse, json_response
from toril.web.routing import Route

_encode = msgspec.json.Encoder().encode

_BANNER = About((Reply(str, "The banner", content_type="text/plain"),))
_HEALTH = About((Reply(shapes.Health, "The process is alive"),))
_READY = About((Reply(shapes.Ready, "Work moves"), Reply(shapes.Ready, "Work does not move, and why", 503)))


class StatusRoutes:
    """Routes for probes. They need no token, so they name no queue and no address.

    Args:
        version: toril's own.
        faults: what keeps this instance from moving work; empty when it is ready.
        warnings: what an operator has to look at all the same.
        told: called with the address of a caller that hears that this instance is not ready.
    """

    def __init__(
        self,
        version: str,
        faults: Callable[[], Awaitable[list[str]]],
        warnings: Callable[[], list[str]] = list,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._banner = f"toril {version}, wire-compatible with BullMQ Proxy (c) Taskforce.sh Inc. v1.5.3\n".encode()
        self._version = version
        self._faults = faults
        self._warnings = warnings
        self._told = told

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/", self.banner, access=Access.OPEN, about=_BANNER),
            Route("/health", self.health, access=Access.OPEN, own=True, about=_HEALTH),
            Route("/ready", self.ready, access=Access.OPEN, own=True, about=_READY),
        ]

    async def banner(self, request: Request) -> Response:
        """Get the banner that BullMQ Proxy's clients check."""
        return BytesResponse(self._banner, content_type=PLAIN)

    async def health(self, request: Request) -> Response:
        """Check that the process is alive."""
        return json_response(_encode(shapes.Health("ok", self._version)))

    async def ready(self, request: Request) -> Response:
        """Check that Redis answers and that every registered queue is being worked on."""
        faults = await self._faults()
        warnings = self._warnings() or UNSET
        if faults:
            self._told(request.address)
            return json_response(_encode(shapes.Ready("not ready", faults, warnings)), 503)
        return json_response(_encode(shapes.Ready("ready", warnings=warnings)))
