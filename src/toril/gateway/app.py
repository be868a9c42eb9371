"""The ASGI application: route lookup → authentication → handler → answer; errors become answers in one place."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Receive, Scope, Send

from toril.core.errors import NotFound, ShuttingDown, TorilError
from toril.gateway.auth import Tokens
from toril.gateway.problems import problem, unexpected
from toril.gateway.routing import Access, Answer, Request, Route, RouteTable

_NOT_FOUND = problem(NotFound())


class Gateway:
    """Everything that answers HTTP.

    Args:
        routes: of all modules.
        tokens: who may use those that need an API token.
    """

    def __init__(self, routes: Iterable[Route], tokens: Tokens) -> None:
        self.table = RouteTable(routes)
        # While shutting down no new work is taken, but a worker may still report on what it has in flight.
        self.draining = False
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            return
        answer = await self._answer(scope, receive)
        body = answer.body
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [
                    (b"content-type", answer.content_type),
                    (b"content-length", b"%d" % len(body)),
                    *answer.headers,
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        segments: list[bytes] = scope["raw_path"].split(b"/")
        route = self.table.match(scope["method"], segments)
        if route is None:
            return _NOT_FOUND
        request = Request(scope, receive, segments)
        try:
            if route.access is Access.TOKEN:
                self._tokens.check(request.authorization)
                if self.draining:
                    raise ShuttingDown
            return await route.handler(request)
        except TorilError as error:
            return problem(error)
        except Exception:
            return unexpected()
