"""The ASGI application: route lookup → authentication → handler → answer; errors become answers in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from functools import partial
from time import perf_counter
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from toril.core.errors import MethodNotAllowed, NotFound, ShuttingDown, TorilError, unwrapped
from toril.core.metrics import ACCEPT_SECONDS, OPEN_SOCKETS, OPEN_STREAMS, REQUEST_SECONDS, UNMETERED
from toril.core.ports.shared import Meter
from toril.gateway.admission import Admission
from toril.gateway.audit import Audit
from toril.gateway.auth import SUBPROTOCOL, socket_authorization
from toril.gateway.measured import CLASSES, NO_ROUTE, method_label
from toril.gateway.mounting import mounted
from toril.gateway.problems import problem, unexpected
from toril.gateway.routing import Access, Answer, Header, Request, Route, RouteTable, SocketRoute, Stream
from toril.gateway.sockets.socket import NOT_ALLOWED, TRY_AGAIN, Socket

log = structlog.get_logger(__name__)

_NOT_FOUND = problem(NotFound())
_SERVER = [b"*"]
"""The target of a request that asks about the server as a whole (RFC 9110 9.3.7)."""
_REASON = 40
"""How many characters of a message are a close reason: UTF-8 may make three bytes of each, of 123 (RFC 6455 5.5)."""


class Gateway:
    """Everything that answers HTTP and WebSockets.

    Args:
        routes: of all modules.
        sockets: the routes of WebSockets.
        admission: who may use those that need an API token.
        meter: told of every answer, and of what is open.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        admission: Admission,
        sockets: Iterable[SocketRoute] = (),
        meter: Meter = UNMETERED,
    ) -> None:
        self.table = RouteTable(routes)
        self.socket_table = RouteTable(sockets)
        # While shutting down no new work is taken, but a worker may still report on what it has in flight.
        self.draining = False
        self._admission = admission
        self._meter = meter
        self._audit = Audit()
        self._open: set[Socket] = set()

    def drain(self) -> None:
        """Take no new work, and tell every socket to end."""
        self.draining = True
        for socket in list(self._open):
            socket.on_drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        scope = mounted(scope)
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        began = perf_counter()
        segments: list[bytes] = scope["raw_path"].split(b"/")
        route = self.table.match(scope["method"], segments)
        if route is None:
            labels = (method_label(scope["method"]), NO_ROUTE, "4xx")
            self._meter.observe(REQUEST_SECONDS, labels, perf_counter() - began)
            await _send(self._unrouted(scope["method"], segments), send, scope["method"])
            return
        request = Request(scope, receive, segments)
        answer = await self._answer(request, route)
        took_s = perf_counter() - began
        if isinstance(answer, Stream):
            self._meter.observe(REQUEST_SECONDS, (route.method, route.template, "2xx"), took_s)
            if scope["method"] == "HEAD":
                await answer.parts.aclose()
                await send_stream_head(answer.content_type, send)
            else:
                await self._stream(answer, request, route, receive, send)
            return
        self._meter.observe(REQUEST_SECONDS, (route.method, route.template, CLASSES[answer.status]), took_s)
        if route.door and answer.status < 300:
            self._meter.observe(ACCEPT_SECONDS, (route.door,), took_s)
        self._audit.request(request, route, answer.status)
        await _send(answer, send, scope["method"])

    def _unrouted(self, method: str, segments: list[bytes]) -> Answer:
        """The answer to a request that has no route.

        At a path that BullMQ Proxy has, also where toril has more methods there, a wrong method is 404 as it is with
        that; at paths of our own it is 405.
        """
        routes = self.table.routes if segments == _SERVER else self.table.at(segments)
        methods = {route.method for route in routes}
        allowed = ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))
        if routes and method == "OPTIONS":
            return Answer(204, b"", b"", ((b"allow", allowed.encode()),))
        if routes and all(route.own for route in routes):
            return problem(MethodNotAllowed(allowed=allowed), own=True)
        return _NOT_FOUND

    async def _stream(self, stream: Stream, request: Request, route: Route, receive: Receive, send: Send) -> None:
        revoked = asyncio.Event()
        self._meter.count(OPEN_STREAMS, (route.template,))
        try:
            with self._admission.staying(request, route, revoked.set):
                await send_stream(stream, receive, send, revoked)
        finally:
            self._meter.count(OPEN_STREAMS, (route.template,), -1.0)

    async def _answer(self, request: Request, route: Route) -> Answer | Stream:
        try:
            if route.access is Access.TOKEN:
                if request.authorization is None and route.token_in_url:
                    request.authorization = socket_authorization(None, request.query(), ())
                self._admission.check(request, route)
                if self.draining:
                    raise ShuttingDown
                if request.caller.rate_limit is not None:
                    await self._admission.spend(request)
            with unwrapped():
                return await route.handler(request)
        except TorilError as error:
            return problem(error, own=route.own)
        except Exception:
            return unexpected(own=route.own)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One WebSocket: let in or refused before the handshake, served until it is closed."""
        began, template = perf_counter(), NO_ROUTE
        await receive()  # websocket.connect
        try:
            segments: list[bytes] = scope["raw_path"].split(b"/")
            route = self.socket_table.match("GET", segments)
            if route is None:
                raise NotFound
            template = route.template
            request = Request(scope, receive, segments)
            offered = scope["subprotocols"]
            request.authorization = socket_authorization(request.authorization, request.query(), offered)
            self._admission.check(request, route)
            if self.draining:
                raise ShuttingDown
            await self._admission.spend(request)
            request.admit = partial(self._admission.command, request)
            serve = await route.handler(request)
        except TorilError as error:
            answer = problem(error)
            self._meter.observe(REQUEST_SECONDS, ("GET", template, CLASSES[answer.status]), perf_counter() - began)
            await send(_refused(answer))
            await send({"type": "websocket.http.response.body", "body": answer.body})
            return
        await send(
            {
                "type": "websocket.accept",
                "subprotocol": SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None,
            }
        )
        self._meter.observe(REQUEST_SECONDS, ("GET", template, "1xx"), perf_counter() - began)
        socket = Socket(receive, send)
        self._open.add(socket)
        self._meter.count(OPEN_SOCKETS, (template,))
        try:
            with unwrapped():
                async with asyncio.TaskGroup() as tasks:

                    def revoke() -> None:
                        tasks.create_task(socket.close(NOT_ALLOWED, "the token is not valid for this any more"))

                    with self._admission.staying(request, route, revoke):
                        await serve(socket)
        except TorilError as error:
            log.warning("socket.ended", path=scope["path"], error=error.message)
            await socket.close(TRY_AGAIN, error.message[:_REASON])
        except Exception:
            log.exception("socket.crashed", path=scope["path"])
            await socket.close(1011, "internal error")
        finally:
            self._open.discard(socket)
            self._meter.count(OPEN_SOCKETS, (template,), -1.0)


async def _send(answer: Answer, send: Send, method: str) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": _headers(answer)})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})


async def send_stream(
    stream: Stream,
    receive: Receive,
    send: Send,
    revoked: asyncio.Event | None = None,
    headers: Iterable[Header] = (),
) -> None:
    """Send the parts as they come, until there are no more, the caller hangs up, or may not listen any more."""
    revoked = revoked or asyncio.Event()
    await send(_stream_start(stream.content_type, headers))
    async with asyncio.TaskGroup() as tasks:
        hanging_up = tasks.create_task(_hung_up(receive))
        sending = tasks.create_task(_send_parts(stream, send))
        revoking = tasks.create_task(revoked.wait())
        await asyncio.wait((hanging_up, sending, revoking), return_when=asyncio.FIRST_COMPLETED)
        for task in (hanging_up, sending, revoking):
            task.cancel()
    if revoked.is_set() and sending.cancelled():
        await send({"type": "http.response.body", "body": b""})


async def send_stream_head(content_type: bytes, send: Send, headers: Iterable[Header] = ()) -> None:
    """Send what a stream begins with, and nothing of it: the answer to a HEAD."""
    await send(_stream_start(content_type, headers))
    await send({"type": "http.response.body", "body": b""})


def _stream_start(content_type: bytes, headers: Iterable[Header]) -> dict[str, Any]:
    fixed = [(b"content-type", content_type), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
    return {"type": "http.response.start", "status": 200, "headers": [*fixed, *headers]}


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_parts(stream: Stream, send: Send) -> None:
    async with aclosing(stream.parts) as parts:
        await send({"type": "http.response.body", "body": stream.first, "more_body": True})
        try:
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except TorilError as error:  # it ends, and the caller comes back to where it was
            log.warning("stream.ended", error=error.message)
    await send({"type": "http.response.body", "body": b""})


def _refused(answer: Answer) -> dict[str, Any]:
    return {"type": "websocket.http.response.start", "status": answer.status, "headers": _headers(answer)}


def _headers(answer: Answer) -> list[Header]:
    if answer.status == 204:  # RFC 9110 8.6: no length where there can be no content
        return list(answer.headers)
    return [(b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body)), *answer.headers]
