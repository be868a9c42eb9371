"""`/`, `/health` and `/ready`: who this is, whether it lives, and whether work is moving."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from toril.gateway import shapes, wire
from toril.gateway.description import About, Reply
from toril.gateway.problems import PLAIN
from toril.gateway.routing import Access, Answer, Request, Route

_encode = msgspec.json.Encoder().encode

_BANNER = About((Reply(str, "Who this is", content_type="text/plain"),))
_HEALTH = About((Reply(shapes.Health, "It does"),))
_READY = About((Reply(shapes.Ready, "Work moves"), Reply(shapes.Ready, "It does not, and why", 503)))


class OpsRoutes:
    """Open to anybody, so they name no queue and no address.

    Args:
        version: toril's own.
        faults: what keeps this instance from moving work; empty when it is ready.
        warnings: what an operator has to look at all the same.
        told: called with the address of a caller that is told that this instance is not ready.
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
        """The routes of this module."""
        return [
            Route("GET", "/", Access.OPEN, self.banner, about=_BANNER),
            Route("GET", "/health", Access.OPEN, self.health, own=True, about=_HEALTH),
            Route("GET", "/ready", Access.OPEN, self.ready, own=True, about=_READY),
        ]

    async def banner(self, request: Request) -> Answer:
        """The banner that BullMQ Proxy users check for."""
        return Answer(200, PLAIN, self._banner)

    async def health(self, request: Request) -> Answer:
        """The process answers."""
        return wire.json_answer(_encode({"status": "ok", "version": self._version}))

    async def ready(self, request: Request) -> Answer:
        """Redis answers, and every registered queue is being worked on."""
        faults = await self._faults()
        warnings = self._warnings()
        more = {"warnings": warnings} if warnings else {}
        if faults:
            self._told(request.address)
            return wire.json_answer(_encode({"status": "not ready", "reasons": faults, **more}), 503)
        return wire.json_answer(_encode({"status": "ready", **more}))
