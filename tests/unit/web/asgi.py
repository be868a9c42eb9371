"""ASGI without a server: scopes, bodies in pieces, and the answer."""

from collections.abc import Iterable, Sequence
from typing import Any

from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from toril.core.access import ANYBODY, Caller
from toril.core.metrics import UNMETERED
from toril.core.ports import Meter
from toril.testing import FakeRates
from toril.web.access_control import AccessControl, Authentication
from toril.web.application import Application
from toril.web.audit import Audit, AuditLog
from toril.web.auth import Tokens
from toril.web.request import Request
from toril.web.request_metrics import RequestMetrics
from toril.web.routing import IndexedRouter, Route
from toril.web.websocket import OpenSockets, SocketLifetime

Messages = list[dict[str, Any]]
DISCONNECT: dict[str, Any] = {"type": "http.disconnect"}


class Body:
    """`receive` of a request whose body comes in these pieces. `unread` is what was not asked for."""

    def __init__(self, *pieces: bytes | dict[str, Any]) -> None:
        whole = pieces or (b"",)
        self.unread: Messages = [
            piece
            if isinstance(piece, dict)
            else {"type": "http.request", "body": piece, "more_body": number < len(whole)}
            for number, piece in enumerate(whole, 1)
        ]

    async def __call__(self) -> dict[str, Any]:
        assert self.unread, "asked for more than the client sent, which would wait for ever"
        return self.unread.pop(0)


def scope(
    method: str, path: str | bytes, query: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()
) -> dict[str, Any]:
    """An HTTP scope as uvicorn makes it."""
    raw = path.encode() if isinstance(path, str) else path
    return {
        "type": "http",
        "method": method,
        "raw_path": raw,
        "path": raw.decode("latin-1"),
        "query_string": query,
        "headers": list(headers),
    }


def request(
    path: str | bytes = "/",
    query: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: Body | None = None,
    *,
    template: str | None = None,
    caller: Caller = ANYBODY,
) -> Request:
    """A request as a handler gets it; `template` is the path of its route."""

    async def send(message: Any) -> None:
        raise AssertionError("a handler returns its response")

    asked = scope("POST", path, query, headers) | {"user": caller}
    if template is not None:
        route = Route(template, _unused, method="POST")
        _, found = route.matches(asked)
        asked |= found | {"route": route}
    return Request(asked, body or Body(), send)


async def _unused(_: Request) -> Response:
    raise AssertionError("this is never called")


def application(
    routes: Iterable[BaseRoute],
    control: AccessControl | None = None,
    meter: Meter = UNMETERED,
    sockets: OpenSockets | None = None,
) -> Application:
    """An application of these routes, with the middleware that an instance puts around them."""
    control = control or AccessControl(Tokens(("secret",)), FakeRates(lambda: 0.0))
    guards = [
        Middleware(SocketLifetime, sockets or OpenSockets()),
        Middleware(Audit, AuditLog()),
        Middleware(Authentication, control),
    ]
    return Application(IndexedRouter(list(routes), middleware=guards), [Middleware(RequestMetrics, meter)])


class Answered:
    """What an application sent."""

    def __init__(self, sent: Messages) -> None:
        start, end = sent
        assert (start["type"], end["type"]) == ("http.response.start", "http.response.body")
        self.status: int = start["status"]
        self.headers: dict[bytes, bytes] = dict(start["headers"])
        self.body: bytes = end["body"]
        assert len(self.headers) == len(start["headers"]), "a header was sent twice"
        assert self.headers[b"content-length"] == b"%d" % len(self.body)


async def ask(app: ASGIApp, asked: dict[str, Any], body: Body | None = None) -> Answered:
    """Ask an application and read its whole answer."""
    sent: Messages = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(asked, body or Body(), send)
    return Answered(sent)
