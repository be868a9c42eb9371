"""Starlette's routes with the right that they need and a description, and a router that finds them by an index.

Paths are matched raw, because a queue named `a/b` comes as `a%2Fb`: segments are decoded after matching. Starlette's
router matches decoded paths and tries one route after the other, which costs 40 µs a request for 80 routes; a look-up
by method and shape costs one.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from starlette.datastructures import URLPath
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound, Router
from starlette.routing import Route as StarletteRoute
from starlette.routing import WebSocketRoute as StarletteSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from toril.core.access import Right
from toril.core.errors import MethodNotAllowed, NotFound
from toril.core.http.headers import Header
from toril.core.metrics import OTHER
from toril.web.access_control import Access
from toril.web.mounting import route_path
from toril.web.openapi.description import About, SocketAbout
from toril.web.problems import error_response
from toril.web.request import Request, path_params
from toril.web.request_metrics import CLASSES
from toril.web.responses import BytesResponse
from toril.web.websocket import Endpoint, socket_app

_SERVER = [b"*"]
"""The target of a request that asks about the server as a whole (RFC 9110 9.3.7)."""

Handler = Callable[[Request], Awaitable[Response]]


class _Template:
    """A path template (`/queues/{queue}/jobs`) as the index matches it."""

    def __init__(self, path: str) -> None:
        parts = path.split("/")
        self.length = len(parts)
        self.literals = tuple((place, part.encode()) for place, part in enumerate(parts) if not part.startswith("{"))
        # The last one tells most templates of one length apart.
        self.telling = self.literals[-1]
        self.params = tuple((place, part[1:-1]) for place, part in enumerate(parts) if part.startswith("{"))
        self.names = frozenset(name for _, name in self.params)

    def matches(self, segments: list[bytes]) -> bool:
        """Return True if the raw path, split at `/`, has this shape. An empty segment is not a parameter."""
        return len(segments) == self.length and self.fits(segments)

    def fits(self, segments: list[bytes]) -> bool:
        """Return True if a path with the same number of segments has this shape."""
        for place, literal in self.literals:
            if segments[place] != literal:
                return False
        for place, _ in self.params:  # noqa: SIM110 - for every request, and a generator costs more
            if not segments[place]:
                return False
        return True

    def url_path(self, path: str, params: Mapping[str, str]) -> str:
        """Return the path with these parameters in it, percent-encoded."""
        for name, value in params.items():
            path = path.replace(f"{{{name}}}", quote(value, safe=""))
        return path


def operation_id(method: str, path: str) -> str:
    """Return the name of a route, which is also its id in the OpenAPI document."""
    words = path.replace("{", "").replace("}", "").replace("-", "/").split("/")
    return "_".join([method.lower(), *(word for word in words if word)])


def _right_on(names: frozenset[str]) -> str | None:
    return next((name for name in ("queue", "target") if name in names), None)


class Route(StarletteRoute):
    """A method, a path template, its endpoint, the right that it needs, and its description.

    The caller needs `right`, on the queue or target that the path names if it names one. Where queues are named
    elsewhere, in a body, the handler asks `Request.demand` itself. Errors of routes that BullMQ Proxy does not have
    (`own`) are problem details (RFC 9457); those of its routes are plain text, as its clients expect. With
    `token_in_url` the token may stand in the URL, for browsers' EventSource, which cannot set headers. `door` is the
    door that jobs come in by here, for metrics. What a person does (`by_hand`) is in the audit log, whatever its right;
    what makes other requests (`relays`) is there only if it is refused, since these have their own lines. `about` is
    what `/openapi.json` says of the route.
    """

    serves = True
    """False for a route that only says why this instance does not have it."""

    def __init__(  # noqa: PLR0913 - as Starlette's
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        method: str = "GET",
        access: Access = Access.TOKEN,
        right: Right | None = None,
        own: bool = False,
        token_in_url: bool = False,
        door: str = "",
        by_hand: bool = False,
        relays: bool = False,
        about: About | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(path, endpoint, methods=[method], name=name or operation_id(method, path))
        if inspect.isfunction(endpoint) or inspect.ismethod(endpoint):
            self.app = _handler_app(endpoint)
        self.method = method
        self.access = access
        self.right = right
        self.own = own
        self.token_in_url = token_in_url
        self.door = door
        self.by_hand = by_hand
        self.relays = relays
        self.about = about
        self.template = _Template(path)
        self.right_on = _right_on(self.template.names)
        self._labels: dict[int, tuple[str, str, str]] = {}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Part of Starlette's routes; the router of toril's own routes does not ask."""
        if scope["type"] != "http":
            return Match.NONE, {}
        segments = route_path(scope).split(b"/")
        if not self.template.matches(segments):
            return Match.NONE, {}
        found = {"endpoint": self.endpoint, "path_params": path_params(segments, self.template.params)}
        return (Match.FULL if scope["method"] in (self.methods or ()) else Match.PARTIAL), found

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Return the path of this route; parameters are percent-encoded."""
        return URLPath(_url_path(self, name, path_params), "http")

    def error_response(self, error: Exception) -> Response:
        """Return the response to a request for this route that failed."""
        return error_response(error, own=self.own)

    def labels(self, method: str, status: int, headers: Iterable[Header]) -> tuple[str, str, str]:
        """Return the labels of a request in metrics, by what its response begins with. A GET route answers HEAD."""
        labels = self._labels.get(status)
        if labels is None:
            labels = self._labels[status] = (self.method, self.path, CLASSES.get(status, OTHER))
        return labels


class SocketRoute(StarletteSocketRoute):
    """A path template for WebSockets, its endpoint, the right that it needs, and its description."""

    method = "GET"
    token_in_url = True
    own = False
    door = ""

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        access: Access = Access.TOKEN,
        right: Right | None = None,
        about: SocketAbout | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(path, endpoint, name=name or operation_id("ws", path))
        self.app = socket_app(endpoint)
        self.access = access
        self.right = right
        self.about = about
        self.template = _Template(path)
        self.right_on = _right_on(self.template.names)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Part of Starlette's routes; the router of toril's own routes does not ask."""
        segments = route_path(scope).split(b"/")
        if scope["type"] != "websocket" or not self.template.matches(segments):
            return Match.NONE, {}
        return Match.FULL, {"endpoint": self.endpoint, "path_params": path_params(segments, self.template.params)}

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Return the path of this route; parameters are percent-encoded."""
        return URLPath(_url_path(self, name, path_params), "websocket")

    def error_response(self, error: Exception) -> Response:
        """Return the response to a handshake that failed."""
        return error_response(error)


AnyRoute = TypeVar("AnyRoute", Route, SocketRoute)


def _url_path(route: Route | SocketRoute, name: str, params: Mapping[str, Any]) -> str:
    if name != route.name or params.keys() != route.template.names:
        raise NoMatchFound(name, dict(params))
    return route.template.url_path(route.path, params)


def _handler_app(handler: Handler) -> ASGIApp:
    """Return Starlette's `request_response` without its exception handling, which the application has once."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


_Shapes = dict[tuple[str, int], list[AnyRoute]]


def _places_of_params(route: Route | SocketRoute) -> list[bool]:
    literal = {place for place, _ in route.template.literals}
    return [place not in literal for place in range(route.template.length)]


def _index(routes: Iterable[AnyRoute]) -> _Shapes[AnyRoute]:
    shapes: _Shapes[AnyRoute] = {}
    for route in routes:
        shapes.setdefault((route.method, route.template.length), []).append(route)
    # Where a path says what it says literally, that route comes before one with a parameter there.
    for found in shapes.values():
        found.sort(key=_places_of_params)
    return shapes


def _find(shapes: _Shapes[AnyRoute], method: str, segments: list[bytes]) -> AnyRoute | None:
    for route in shapes.get((method, len(segments)), ()):
        place, literal = route.template.telling
        if segments[place] == literal and route.template.fits(segments):
            return route
    return None


def _always(route: Any) -> bool:
    return True


class IndexedRouter(Router):
    """A router that finds toril's routes by method and shape, and then tries the others in turn, as Starlette does.

    Args:
        routes: of all modules. Routes of other classes may be appended to `routes` later.
        middleware: what stands before the endpoint of each of toril's routes, the outermost first. A class with
            `applies_to` is left out for other routes.
    """

    def __init__(self, routes: Sequence[BaseRoute] = (), *, middleware: Sequence[Middleware] = (), **more: Any) -> None:
        super().__init__(routes, redirect_slashes=False, **more)
        self.plain = [route for route in routes if isinstance(route, Route)]
        self.sockets = [route for route in routes if isinstance(route, SocketRoute)]
        self._by_shape = _index(self.plain)
        self._sockets_by_shape = _index(self.sockets)
        self._methods = list(dict.fromkeys(route.method for route in self.plain))
        self._own = frozenset(map(id, [*self.plain, *self.sockets]))
        guarded: list[Route | SocketRoute] = [*self.plain, *self.sockets]
        for route in guarded:
            for cls, args, kwargs in reversed(middleware):
                if getattr(cls, "applies_to", _always)(route):
                    route.app = cls(route.app, *args, **kwargs)

    def find(self, method: str, path: bytes) -> Route | None:
        """Return the route for a method and a raw path. A GET route answers HEAD (RFC 9110 9.3.2)."""
        return _find(self._by_shape, "GET" if method == "HEAD" else method, path.split(b"/"))

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        """Part of Starlette."""
        return self.middleware_stack(scope, receive, send)

    def app(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        """Serve one ASGI connection."""
        kind = scope["type"]
        if kind == "lifespan":
            return self.lifespan(scope, receive, send)
        segments = route_path(scope).split(b"/")
        route: Route | SocketRoute | None
        if kind == "http":
            method = scope["method"]
            route = _find(self._by_shape, "GET" if method == "HEAD" else method, segments)
        else:
            route = _find(self._sockets_by_shape, "GET", segments)
        if route is None:
            return self._serve_others(scope, receive, send, segments)
        scope["router"] = self
        scope["route"] = route
        scope["endpoint"] = route.endpoint
        scope["path_params"] = path_params(segments, route.template.params)
        return route.app(scope, receive, send)

    async def _serve_others(self, scope: Scope, receive: Receive, send: Send, segments: list[bytes]) -> None:
        scope["router"] = self
        for other in self.routes:
            if id(other) in self._own:
                continue
            match, found = other.matches(scope)
            if match is not Match.NONE:
                scope["route"] = other
                scope.update(found)
                await other.handle(scope, receive, send)
                return
        if scope["type"] == "websocket":
            raise NotFound
        await self._options(scope["method"], segments)(scope, receive, send)

    def _options(self, method: str, segments: list[bytes]) -> Response:
        """Return the response to OPTIONS; None for any other method.

        Raises:
            NotFound: there is no such path, or it is one that BullMQ Proxy has, which answers a wrong method so. That
                also holds where toril has more methods there.
            MethodNotAllowed: the path is one of our own.
        """
        if segments == _SERVER:
            routes = self.plain
        else:
            found = (_find(self._by_shape, known, segments) for known in self._methods)
            routes = [route for route in found if route is not None]
        methods = {route.method for route in routes}
        allowed = ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))
        if routes and method == "OPTIONS":
            return BytesResponse(status_code=204, headers=((b"allow", allowed.encode()),))
        if routes and all(route.own for route in routes):
            raise MethodNotAllowed(allowed=allowed)
        raise NotFound
