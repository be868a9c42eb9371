"""`Application`: Starlette's, with the middleware and the exception handlers that all doors share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import ASGIApp, ExceptionHandler, Receive, Scope, Send
from starlette.websockets import WebSocket as StarletteWebSocket

from toril.core.errors import MethodNotAllowed, TorilError, only_toril_error
from toril.web.audit import note_refusal
from toril.web.mounting import Mounting
from toril.web.problems import error_response
from toril.web.request_metrics import observed

log = structlog.get_logger(__name__)

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


class Application(Starlette):
    """A Starlette application whose errors become responses in one place.

    It has one middleware that handles exceptions where Starlette has two, which cost a request four closures. What is
    put into `exception_handlers`, by class or by status, works as in Starlette, also for toril's own errors; an
    exception without a handler is logged and answered with 500, and not raised again.

    Args:
        router: finds what serves a request.
        middleware: what stands before the router, the outermost first. Middleware that is added goes before it.
        lifespan: starts and drains what is behind the routes.
    """

    def __init__(self, router: Router, middleware: Sequence[Middleware] = (), lifespan: Lifespan | None = None) -> None:
        super().__init__(exception_handlers={Exception: _respond_by_route})
        if lifespan is not None:
            router.lifespan_context = lifespan
        self.router = router
        self._own_middleware = tuple(middleware)
        self._own_routes = len(router.routes)

    def renew(self, router: Router, middleware: Sequence[Middleware]) -> None:
        """Serve with another router and middleware from now on. What was added to the application stays."""
        own_routes = len(router.routes)
        router.routes += self.router.routes[self._own_routes :]
        router.lifespan_context = self.router.lifespan_context
        self.router = router
        self._own_routes, self._own_middleware = own_routes, tuple(middleware)
        self.middleware_stack = None

    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one ASGI connection as `__call__` does, without a coroutine around that of the middleware.

        Servers and test clients that are not told so see by `__call__` being a coroutine function that this is ASGI 3.
        """
        scope["app"] = self
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        return self.middleware_stack(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        """Part of Starlette: what was added to the application comes first, then its own middleware."""
        handling = Middleware(ExceptionHandling, handlers=self.exception_handlers)
        app: ASGIApp = self.router.middleware_stack
        for cls, args, kwargs in reversed(
            [*self.user_middleware, *self._own_middleware, Middleware(Mounting), handling]
        ):
            app = cls(app, *args, **kwargs)
        return app


class ExceptionHandling:
    """Middleware that turns exceptions into responses.

    A response that has begun is broken off as its route does that (`broken_off`). Of a route that `counts_unanswered`,
    a request that is cancelled before its response is measured too.
    """

    def __init__(self, app: ASGIApp, handlers: Mapping[Any, ExceptionHandler]) -> None:
        self.app = app
        self._handlers = dict(handlers)
        if 500 in handlers:
            self._handlers[Exception] = handlers[500]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        try:
            await self.app(scope, receive, send)
        except Exception as exc:
            note_refusal(scope, exc)
            if scope["type"] == "lifespan":
                raise
            if observed(scope).begun:
                broken_off = getattr(scope.get("route"), "broken_off", None)
                if broken_off is None:
                    raise
                await broken_off(exc, scope, send)
            else:
                await self._respond(only_toril_error(exc) or exc, scope, receive, send)
        except BaseException:
            if getattr(scope.get("route"), "counts_unanswered", False):
                observed(scope).ended()
            raise

    async def _respond(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with the handler that Starlette would choose."""

        async def fail(*_: Any) -> None:
            raise error

        handlers = self._handlers
        if isinstance(error, TorilError) and error.status in handlers:
            handlers = handlers | {type(error): handlers[error.status]}
        await ExceptionMiddleware(fail, handlers)(scope, receive, send)


async def _respond_by_route(request: StarletteRequest | StarletteWebSocket, error: Exception) -> Response:
    """Return the response in the form that the request's route uses for errors."""
    respond = getattr(request.scope.get("route"), "error_response", None)
    if respond is None:
        return error_response(error, own=isinstance(error, MethodNotAllowed))
    response: Response = respond(error)
    return response
