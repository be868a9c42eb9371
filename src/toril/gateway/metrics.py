"""`/metrics`: everything measured, for Prometheus."""

from __future__ import annotations

from toril.core.access import Right
from toril.core.ports.shared import Exposition
from toril.gateway.description import About, Reply
from toril.gateway.routing import Access, Answer, Request, Route

_METRICS = About((Reply(str, "Prometheus' text format", content_type="text/plain"),))


class MetricsRoutes:
    """Shows what is measured, of all processes of the instance."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def routes(self) -> list[Route]:
        """The routes of this module."""
        return [
            Route("GET", "/metrics", Access.TOKEN, self.metrics, Right.METRICS_READ, own=True, about=_METRICS),
        ]

    async def metrics(self, request: Request) -> Answer:
        """Everything measured, of all processes, whichever of them is asked."""
        return Answer(200, *await self._exposition.text(request.caller.sees))
