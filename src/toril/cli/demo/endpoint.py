"""The demo's sample worker: an ordinary web handler that squares a number.

Some jobs fail once and are retried; some report progress and a log line with the lock token they were given.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from toril.cli.demo.client import Client

FAILS_EVERY = 250
REPORTS_EVERY = 50


class SquareEndpoint:
    """An ASGI application. `api` reaches the gateway as any worker would, over HTTP."""

    def __init__(self, api: Client, queue: str) -> None:
        self.calls: Counter[int] = Counter()
        self.reports = 0
        self._api = api
        self._queue = queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Work on the pushed `{job, token}`."""
        pushed = msgspec.json.decode(await Request(scope, receive).body())
        status, answer = await self._work(pushed["job"], pushed["token"])
        await Response(answer, status, media_type="application/json")(scope, receive, send)

    async def _work(self, job: dict[str, Any], token: str) -> tuple[int, bytes]:
        number = job["data"]["number"]
        self.calls[number] += 1
        if number % FAILS_EVERY == 0 and self.calls[number] == 1:
            return 503, b'{"error": "out of paper, try again"}'
        if number % REPORTS_EVERY == 1:
            path = f"/queues/{self._queue}/jobs/{job['id']}"
            await self._api.post(f"{path}/progress", 50, token)
            await self._api.post(f"{path}/logs", f"squaring {number}", token)
            self.reports += 1
        return 200, msgspec.json.encode({"square": number * number})
