"""The spans of an instance, where the environment asks for them."""

from __future__ import annotations

import asyncio
import os

from starlette.middleware import Middleware

from toril import __version__
from toril.core.ports import Now
from toril.telemetry.tracing.attempts import AttemptTracing
from toril.telemetry.tracing.open_telemetry import tracer_of
from toril.telemetry.tracing.requests import TracedRequests


class Traces:
    """What makes the spans of requests and attempts: nothing, unless `OTEL_*` variables ask for it."""

    def __init__(self, now: Now) -> None:
        self._tracer = tracer = tracer_of(os.environ, __version__)
        self.attempts = None if tracer is None else AttemptTracing(tracer, now)
        self.middleware = [] if tracer is None else [Middleware(TracedRequests, tracer)]

    async def close(self) -> None:
        """Send the spans that are left, within seconds."""
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
