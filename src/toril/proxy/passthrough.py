"""Requests that pass through to an upstream at once instead of becoming jobs: both directions streamed.

Only the part of a body that is on its way is in memory, which stays flat whatever the size, and either side may be
slow. A WebSocket is the same after its handshake: bytes both ways, unchanged. The caller of this module has chosen the
upstream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus
from typing import Any

import structlog
from msgspec.structs import replace
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from toril.core.http.headers import HOP_BY_HOP, end_to_end, is_header_value
from toril.core.http.streaming import StreamHead
from toril.core.outcome import ConnectFailed, CutOff, TimedOut
from toril.http_client.ports import Exchange, StreamOutbound, StreamOutboundPool
from toril.proxy.rules.direct_request import Inbound, direct_request
from toril.proxy.rules.upstream import Upstream
from toril.telemetry.tracing.requests import PassedOn, passed_on
from toril.telemetry.tracing.spans import continuing
from toril.web.raw_target import CYCLE, EARLY, REASON, TUNNEL, add_nothing, cut_off
from toril.web.request_metrics import Observed
from toril.web.sourced import own_error

log = structlog.get_logger(__name__)

_CONTINUE_S = 1.0
"""How long a client that expects 100 Continue waits where the upstream says nothing; curl waits as long."""

Failure = ConnectFailed | TimedOut | CutOff


class Passthrough:
    """Passes requests through.

    Args:
        outbound_to: returns what makes the connections to an upstream.
    """

    def __init__(self, outbound_to: Callable[[Upstream], StreamOutbound]) -> None:
        self._outbound_to = outbound_to
        self._pools: dict[str, StreamOutboundPool] = {}
        self._under_way: set[_Passage] = set()
        # Set once it drains and nothing is under way.
        self._idle: asyncio.Event | None = None

    def __call__(
        self, scope: Scope, receive: Receive, send: Send, upstream: Upstream, target: bytes
    ) -> Coroutine[Any, Any, None]:
        """Pass one request through, and its answer back; see `toril.proxy.direct.Direct`."""
        span = passed_on(scope, partial(_url, upstream, target))
        if span is None:
            return self._pass(scope, receive, send, upstream, target)
        return self._pass_traced(scope, receive, send, upstream, target, span)

    async def _pass_traced(
        self, scope: Scope, receive: Receive, send: Send, upstream: Upstream, target: bytes, span: PassedOn
    ) -> None:
        try:
            await self._pass(scope, receive, send, upstream, target, span)
        finally:
            span.failed("cancelled")  # where neither an answer nor a failure has ended it

    async def _pass(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        upstream: Upstream,
        target: bytes,
        span: PassedOn | None = None,
    ) -> None:
        inbound = Inbound(
            method=scope["method"].encode(),
            headers=scope["headers"],
            peer=(scope["client"] or ("unknown",))[0].encode(),
            scheme=scope["scheme"].encode(),
        )
        upgrade = TUNNEL in scope.get("extensions", {})
        request = direct_request(inbound, upstream.forwarded(target), upstream.host, upgrade=upgrade)
        if span is not None:
            request = replace(request, head=continuing(request.head, span.context))
        exchange = await self._pool(upstream).open(request, upstream.timeout_s)
        if isinstance(exchange, (ConnectFailed, TimedOut)):
            await _unanswered(exchange, upstream, span)(scope, receive, send)
            return
        has_body = request.has_body
        # What asks for 100 Continue sends its body when the upstream says so.
        expects = has_body and any(name == b"expect" for name, _ in inbound.headers)
        add_nothing(scope)
        passage = _Passage(exchange, receive, send, upstream, bodiless=not has_body, expects=expects)
        cycle = scope.get(CYCLE)
        passage.passes_early, passage.span = cycle is not None, span
        # Without a task that waits for the client to hang up: with it, a small request costs a third more.
        passage.told_when_gone = cycle is not None and cycle.tell_when_gone(receive, passage.client_gone)
        self._under_way.add(passage)
        try:
            failure = await passage.run(upgrade=upgrade)
            if passage.broke_off:
                await cut_off(scope, send)
        except asyncio.CancelledError:
            # The server ends, and this caller has stopped reading: there is no other way to be rid of it.
            if self._idle is None:
                raise
            return
        finally:
            passage.break_off()
            self._under_way.discard(passage)
            if self._idle is not None and not self._under_way:
                self._idle.set()
        if failure is not None:
            await _unanswered(failure, upstream, span)(scope, receive, send)

    async def drain(self, grace_s: float) -> None:
        """Wait until no request is in progress, or the time is over; then abort the rest."""
        self._idle = asyncio.Event()
        if not self._under_way:
            self._idle.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        for passage in list(self._under_way):
            passage.break_off()
        for pool in self._pools.values():
            pool.close()

    def _pool(self, upstream: Upstream) -> StreamOutboundPool:
        pool = self._pools.get(upstream.prefix)
        if pool is None:
            pool = self._pools[upstream.prefix] = self._outbound_to(upstream).pool(upstream.url)
        return pool


class _Passage:
    """One request that is being passed through."""

    def __init__(
        self, exchange: Exchange, receive: Receive, send: Send, upstream: Upstream, *, bodiless: bool, expects: bool
    ) -> None:
        self._exchange = exchange
        self._receive = receive
        self._send = send
        self._upstream = upstream
        self._wanted = not bodiless
        self._whole = bodiless
        self._gone = False
        # Whether our own server serves this, and so knows EARLY.
        self.passes_early = False
        # Of the request, where it is traced.
        self.span: PassedOn | None = None
        # Whether it tells when the client hangs up; else only receiving does.
        self.told_when_gone = False
        self.broke_off = False
        # Set once the body of what expects 100 Continue is asked for; any other one needs not be asked for.
        self._asked = asyncio.Event() if expects else None

    def client_gone(self) -> None:
        """End it, because the client has hung up."""
        self._gone = True
        self._exchange.close()

    def break_off(self) -> None:
        """Abort the request, if it has not ended."""
        self._exchange.close()

    def run(self, *, upgrade: bool) -> Coroutine[Any, Any, Failure | None]:
        """Pass both bodies on; return a failure if there is no answer and nothing has been sent to the client."""
        if self._whole and self.told_when_gone:
            return self._download(None, upgrade=upgrade)
        return self._both_ways(upgrade=upgrade)

    async def _both_ways(self, *, upgrade: bool) -> Failure | None:
        async with asyncio.TaskGroup() as tasks:
            upload = tasks.create_task(self._upload())
            try:
                return await self._download(upload, upgrade=upgrade)
            finally:
                upload.cancel()

    async def _upload(self) -> None:
        """Send the request's body as fast as the upstream takes it; then watch for the client to hang up."""
        if self._asked is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CONTINUE_S):
                    await self._asked.wait()
            self._asked.set()
        while (message := await self._receive())["type"] != "http.disconnect":
            body = message.get("body", b"")
            if body and self._wanted:
                self._wanted = await self._exchange.write(body)
            if not self._whole and not message.get("more_body", False):
                self._whole = True
                self._exchange.end()
        self.client_gone()

    async def _download(self, upload: asyncio.Task[None] | None, *, upgrade: bool) -> Failure | None:
        """Send the answer as fast as the client takes it."""
        patience_s = self._upstream.timeout_s
        head = await self._exchange.head(patience_s)
        while isinstance(head, StreamHead) and head.status < 200 and head.status != 101:
            await self._pass_early(head)
            head = await self._exchange.head(patience_s)
        if self._gone:
            return None
        if not isinstance(head, StreamHead):
            return head
        if self.span is not None:
            self.span.answered(head.status)
        if head.status == 101:
            if not upgrade:
                return CutOff("ERR_HTTP", "It switches protocols unasked", 0.0)
            await self._tunnel(head)
            return None
        body, is_asked = self._exchange.rest(), self._asked is None or self._asked.is_set()
        if body is not None and is_asked and self._sent_at_once(head, body):
            return None
        start = _start(_passed_on(head))
        headers = start["headers"]
        if not is_asked:
            # The client may send its body all the same or keep it: what comes next could be either.
            headers.append((b"connection", b"close"))
            if upload is not None:
                upload.cancel()
        await self._send(start)
        if body is not None:
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
            return None
        events = any(name.lower() == b"content-type" and b"event-stream" in value.lower() for name, value in headers)
        await self._pass_back(None if events else patience_s)
        return None

    async def _pass_early(self, head: StreamHead) -> None:
        if head.status == 100:  # whether that is passed on is for our own server to say
            if self._asked is not None:
                self._asked.set()
        elif self.passes_early and not self._gone:
            await self._send({"type": EARLY, "head": _passed_on(head)})

    def _sent_at_once(self, head: StreamHead, body: bytes) -> bool:
        """Send an answer that has come whole in one step, as most small ones have; return False if it needs several."""
        send = self._send
        if not isinstance(send, Observed) or head.reason != _PHRASES.get(head.status, b""):
            return False
        headers = [(name.lower(), value) for name, value in head.headers]
        if not HOP_BY_HOP.isdisjoint(dict(headers)):
            headers = end_to_end(headers)
        return send.answer(head.status, headers, body)

    async def _tunnel(self, head: StreamHead) -> None:
        """Pass the bytes of a tunnel both ways, after the upstream has switched protocols."""
        protocol = next((value for name, value in head.headers if name.lower() == b"upgrade"), b"websocket")
        start = _start(_passed_on(head))
        start["headers"] += [(b"connection", b"Upgrade"), (b"upgrade", protocol)]
        await self._send(start)
        self._wanted = True
        await self._pass_back(None)

    async def _pass_back(self, patience_s: float | None) -> None:
        """Send the answer's body. A body without progress for too long is cut off, except a stream of events."""
        exchange = self._exchange
        over = False
        while not over:
            piece = await exchange.read(patience_s)
            if not isinstance(piece, bytes):
                if not self._gone:
                    log.warning("passthrough.cut_off", upstream=self._upstream.prefix, error=_reason(piece))
                self.broke_off = True
                return
            over = exchange.over
            await self._send({"type": "http.response.body", "body": piece, "more_body": not over})


def _passed_on(head: StreamHead) -> StreamHead:
    """Return what a client gets of a head."""
    headers = end_to_end(head.headers)
    if head.status < 200:  # RFC 9110 8.6
        headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
    return StreamHead(head.status, headers, head.reason if is_header_value(head.reason) else b"")


def _start(head: StreamHead) -> dict[str, Any]:
    return {"type": "http.response.start", "status": head.status, "headers": head.headers, REASON: head.reason}


_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


def _reason(failure: Failure) -> str:
    return f"no answer within {failure.duration_s:.1f} s" if isinstance(failure, TimedOut) else failure.detail


def _url(upstream: Upstream, target: bytes) -> str:
    """Return the URL that a request is passed on to, without its query."""
    return upstream.origin + upstream.forwarded(target).partition(b"?")[0].decode("latin-1")


def _unanswered(failure: Failure, upstream: Upstream, span: PassedOn | None) -> Response:
    if span is not None:
        span.failed("timeout" if isinstance(failure, TimedOut) else failure.code)
    log.warning("passthrough.unanswered", upstream=upstream.prefix, error=_reason(failure))
    late = isinstance(failure, TimedOut) and failure.phase == "answer"
    return own_error(504 if late else 502)
