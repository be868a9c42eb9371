"""The route table, and the two things every handler deals in: a `Request` and an `Answer`.

Matches on the raw path, because a queue may be called `a/b` and come as `a%2Fb`: segments are decoded one by one
after matching. Starlette's router matches the decoded path, and costs 4 µs a request where this costs one
(measured on the raw ASGI ceiling of 24 µs); it serves everything that is not a plain HTTP exchange.
"""

from __future__ import annotations

import enum
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Generic, TypeVar
from urllib.parse import parse_qsl

from msgspec import Struct
from starlette.types import Receive, Scope

from toril.core.access import ANYBODY, Caller, Right
from toril.core.errors import Forbidden, InvalidRequest, JobNotFound, PayloadTooLarge
from toril.core.job import is_job_id
from toril.core.queue_name import NameRules
from toril.gateway.description import About, SocketAbout
from toril.gateway.sockets.socket import Socket

Header = tuple[bytes, bytes]
_HEX = frozenset(b"0123456789abcdefABCDEF")


class Access(enum.Enum):
    """Who may call a route."""

    OPEN = "anybody"
    TOKEN = "a caller with an API token"  # noqa: S105 - a description
    LOCK = "the worker that holds the job's lock"


class Answer(Struct):
    """A response to send, whole."""

    status: int
    content_type: bytes
    body: bytes
    headers: tuple[Header, ...] = ()


SSE = b"text/event-stream;charset=utf-8"
"""The content type of Server-Sent Events."""


class Stream(Struct):
    """A response that goes on until its parts end or the caller hangs up. The first part is there before it begins,
    so that what goes wrong until then is still an error with a status.
    """

    content_type: bytes
    first: bytes
    parts: AsyncGenerator[bytes, None]


Admit = Callable[[Right, str], Awaitable[None]]
"""Lets pass whoever has a right on a queue now, and has not asked too often."""


async def _nobody(right: Right, queue: str) -> None:
    raise Forbidden


class Request:
    """One HTTP request, read as far as somebody asked.

    `caller` is who makes it. While a stream or a socket goes on it is kept up to date: who has no rights any more is
    ANYBODY. `demanded` is what it takes for that beside the right of the route. `authorization` is what the caller
    shows, as that header, wherever it came from. On a socket, `admit` lets one command more pass, or not.
    """

    __slots__ = ("_receive", "_segments", "admit", "authorization", "caller", "content_length", "demanded", "scope")

    def __init__(self, scope: Scope, receive: Receive, segments: list[bytes]) -> None:
        self.scope = scope
        self.caller: Caller = ANYBODY
        self.demanded: list[tuple[Right, str]] = []
        self.admit: Admit = _nobody
        self.authorization: bytes | None = None
        self.content_length: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                self.authorization = value
            elif name == b"content-length":
                self.content_length = value
        self._receive = receive
        self._segments = segments

    def demand(self, right: Right, queue: str) -> None:
        """Let it pass, or not, where a queue is named elsewhere than in the path; also for as long as a stream goes on.

        Raises:
            Forbidden: the caller may not.
        """
        self.caller.demand(right, queue)
        self.demanded.append((right, queue))

    def hides(self, queue: str) -> bool:
        """Return True if the caller is not to see secrets in what belongs to this queue or target."""
        return not self.caller.everything and not self.caller.may(Right.PAYLOADS_READ, queue)

    def segment(self, index: int) -> str:
        """A decoded segment of the path, counted from 0.

        Raises:
            InvalidRequest: its percent-encoding is malformed.
        """
        raw = self._segments[index + 1]
        return raw.decode("ascii") if b"%" not in raw and raw.isascii() else _decoded(raw)

    def query(self) -> dict[str, str]:
        """The query parameters; the last of a name wins.

        Raises:
            InvalidRequest: its percent-encoding is malformed.
        """
        raw: bytes = self.scope["query_string"]
        if not raw:
            return {}
        for pair in raw.replace(b"+", b"%20").split(b"&"):
            for half in pair.split(b"=", 1):
                _decoded(half)
        return dict(parse_qsl(raw.decode(), keep_blank_values=True))

    @property
    def queue(self) -> str:
        """The queue that a path under `/queues` or `/workers` names. Its name has yet to be checked."""
        return self.segment(1)

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        return next((value for key, value in self.scope["headers"] if key == name), None)

    @property
    def address(self) -> str:
        """Where the caller's connection comes from; empty where that is not known."""
        client = self.scope.get("client")
        return client[0] if client else ""

    async def hung_up(self) -> None:
        """Wait until the caller is gone. Only once the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def json(self, limit_bytes: int) -> bytes:
        """The whole body, which is to be JSON; what marks its byte order is no part of that (RFC 8259 8.1).

        Raises:
            PayloadTooLarge: it is larger than the limit; reading stopped there.
        """
        return (await self.body(limit_bytes)).removeprefix(BOM_UTF8)

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            PayloadTooLarge: it is larger than the limit; reading stopped there.
        """
        if self.content_length is not None and int(self.content_length) > limit_bytes:
            raise _too_large(limit_bytes)
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise InvalidRequest("The request was broken off")
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            parts.append(part)
            more = message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body must be at most {limit_bytes} bytes")


def _decoded(raw: bytes) -> str:
    """Percent-decode strictly: every `%` with two hex digits behind it, and UTF-8 in the end (RFC 3986 2.1)."""
    first, *rest = raw.split(b"%")
    parts = [first]
    for piece in rest:
        if len(piece) < 2 or piece[0] not in _HEX or piece[1] not in _HEX:
            raise InvalidRequest("Malformed percent-encoding in the URL")
        parts.append(bytes((int(piece[:2], 16),)) + piece[2:])
    try:
        return b"".join(parts).decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest("Malformed percent-encoding in the URL: not UTF-8") from exc


def job_of(request: Request, names: NameRules) -> tuple[str, str]:
    """The queue and the job that a path `/queues/{queue}/jobs/{id}` names.

    Raises:
        InvalidRequest: the queue cannot be called so.
        JobNotFound: no job has such an id.
    """
    queue, job_id = request.queue, request.segment(3)
    names.check(queue)
    if not is_job_id(job_id):
        raise JobNotFound
    return queue, job_id


Handler = Callable[[Request], Awaitable[Answer | Stream]]


def queue_at(template: str) -> int | None:
    """Which segment of a path names a queue or a target, counted from 0."""
    parts = template.split("/")
    return next((parts.index(name) - 1 for name in ("{queue}", "{target}") if name in parts), None)


class Route(Struct, frozen=True):
    """A method, a path template (`/queues/{queue}/jobs`), who may call it, and what answers.

    The caller needs `right`, on the queue or target that the path names if it names one. Where queues are named
    elsewhere, in a body, the handler asks `Request.demand` itself. Errors of routes that BullMQ Proxy does not have
    (`own`) are problem details (RFC 9457); those of its routes are plain text, as its clients expect. `about` is what
    `/openapi.json` says of it; a test sees to it that every route has one.
    """

    method: str
    template: str
    access: Access
    handler: Handler
    right: Right | None = None
    own: bool = False
    # Browsers' EventSource cannot set headers, so there, and only there, the token may stand in the URL.
    token_in_url: bool = False
    # The door that jobs come in by here, for metrics; empty where none do.
    door: str = ""
    about: About | None = None


Serve = Callable[[Socket], Awaitable[None]]
"""Serves one socket until it is closed."""


class SocketRoute(Struct, frozen=True):
    """A path template of WebSockets, who may open one, and what checks the request and says what serves it."""

    template: str
    access: Access
    handler: Callable[[Request], Awaitable[Serve]]
    right: Right | None = None
    own: bool = False
    about: SocketAbout | None = None

    @property
    def method(self) -> str:
        """A handshake is a GET."""
        return "GET"


AnyRoute = TypeVar("AnyRoute", Route, SocketRoute)


class RouteTable(Generic[AnyRoute]):
    """All routes, by method and path."""

    def __init__(self, routes: Iterable[AnyRoute]) -> None:
        self.routes: list[AnyRoute] = list(routes)
        self._by_shape: dict[tuple[str, int], list[tuple[tuple[bytes | None, ...], AnyRoute]]] = {}
        for route in self.routes:
            parts = tuple(None if part.startswith("{") else part.encode() for part in route.template.split("/"))
            self._by_shape.setdefault((route.method, len(parts)), []).append((parts, route))
        self._methods = list(dict.fromkeys(route.method for route in self.routes))
        # Where a path says what it says literally, that route comes before one with a placeholder there.
        for shapes in self._by_shape.values():
            shapes.sort(key=lambda shape: [part is None for part in shape[0]])

    def match(self, method: str, segments: list[bytes]) -> AnyRoute | None:
        """The route of a method and the raw path split at `/`. What answers GET answers HEAD (RFC 9110 9.3.2)."""
        if method == "HEAD":
            method = "GET"
        for parts, route in self._by_shape.get((method, len(segments)), ()):
            for part, segment in zip(parts, segments, strict=True):
                if part != segment and (part is not None or not segment):
                    break
            else:
                return route
        return None

    def at(self, segments: list[bytes]) -> list[AnyRoute]:
        """The routes of all methods at the raw path split at `/`."""
        found = (self.match(method, segments) for method in self._methods)
        return [route for route in found if route is not None]
