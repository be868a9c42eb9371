"""`GET /doctor`: what is wrong with this instance and what it depends on, and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.responses import Response

from toril.core.access import Right
from toril.core.errors import Forbidden
from toril.web.openapi.description import About, Parameter, Reply
from toril.web.operations.findings import Finding
from toril.web.parameters import seconds
from toril.web.request import Request
from toril.web.responses import json_response
from toril.web.routing import Route

_MOST_WAIT_S = 60.0


class Findings(Struct, frozen=True):
    """The findings about an instance, and its version."""

    version: str
    findings: list[Finding]


_DOCTOR = About(
    (Reply(Findings, "What was found, good and bad"),),
    parameters=(
        Parameter(
            "wait",
            Annotated[float, Meta(ge=0, le=_MOST_WAIT_S)],
            "Seconds before the answer, to see whether a proxy on the way waits so long; 0 by default",
        ),
    ),
)


class DoctorRoutes:
    """The route that examines an instance. It names hosts and settings, so the token must be valid for all queues."""

    def __init__(self, version: str, examine: Callable[[], Awaitable[list[Finding]]]) -> None:
        self._version = version
        self._examine = examine

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/doctor", self.doctor, right=Right.METRICS_READ, own=True, about=_DOCTOR)]

    async def doctor(self, request: Request) -> Response:
        """Check this instance, Redis and the ledger, and say what to do. The token must be valid for all queues."""
        if not request.caller.all_queues:
            raise Forbidden
        text = request.query().get("wait", "0")
        fault = f"Invalid wait {text[:100]}, must be from 0 to {_MOST_WAIT_S:g} seconds"
        await asyncio.sleep(seconds(text, "wait", _MOST_WAIT_S, fault))
        return json_response(msgspec.json.encode(Findings(self._version, await self._examine())))
