"""`/metrics`: all metrics, for Prometheus."""

from __future__ import annotations

from starlette.responses import Response

from toril.core.access import Right
from toril.core.ports import Exposition
from toril.web.openapi.description import About, Reply
from toril.web.request import Request
from toril.web.responses import BytesResponse
from toril.web.routing import Route

_METRICS = About(
    (
        Reply(str, "Prometheus' text format", content_type="text/plain"),
        Reply(
            str,
            "With traces, where `Accept` asks for it: OpenMetrics, which has exemplars",
            content_type="application/openmetrics-text",
        ),
    )
)


class MetricsRoutes:
    """The route that shows the metrics of all processes of the instance."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/metrics", self.metrics, right=Right.METRICS_READ, own=True, about=_METRICS),
        ]

    async def metrics(self, request: Request) -> Response:
        """Get the metrics of all processes of this instance, for Prometheus."""
        accept = (request.header(b"accept") or b"").decode("latin-1")
        content_type, text = await self._exposition.text(request.caller.sees, accept)
        return BytesResponse(text, content_type=content_type)
