"""Requests that pass through to an upstream at once instead of becoming jobs: both directions streamed.

Holds no more of a body than what is on its way, so memory stays flat whatever the size, and either side may be as slow
as it likes. A WebSocket is the same thing behind its handshake: bytes both ways, untouched. Decides nothing: whoever
calls it has found the upstream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from toril.core.headers import end_to_end, is_header_value
from toril.core.outcome import ConnectFailed, CutOff, TimedOut
from toril.core.ports.calls import Exchange, StreamOutbound, StreamOutboundPool
from toril.core.streaming import Inbound, StreamHead, direct_request
from toril.core.upstream import Upstream
from toril.gateway.exact import CYCLE, EARLY, REASON, add_nothing
from toril.gateway.sourced import own_error, send_own

log = structlog.get_logger(__name__)

TUNNEL = "toril.tunnel"
"""An ASGI extension of ours: this handshake of a WebSocket may be answered with 101, and is bytes both ways then."""
CUT_OFF = "toril.response.cut_off"
"""An ASGI message of ours: close the connection so that the client can tell that this answer is not whole."""

_CONTINUE_S = 1.0
"""How long a client that expects 100 Continue waits where the upstream says nothing; curl waits as long."""

Failure = ConnectFailed | TimedOut | CutOff


class Passthrough:
    """Passes requests through, over connections that `outbound` makes."""

    def __init__(self, outbound: StreamOutbound) -> None:
        self._outbound = outbound
        self._pools: dict[str, StreamOutboundPool] = {}
        self._under_way: set[_Passage] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send, upstream: Upstream, target: bytes) -> None:
        """Pass one request through, and its answer back; see `toril.gateway.direct.Direct`."""
        inbound = Inbound(
            method=scope["method"].encode(),
            headers=scope["headers"],
            peer=(scope["client"] or ("unknown",))[0].encode(),
            scheme=scope["scheme"].encode(),
        )
        upgrade = TUNNEL in scope.get("extensions", {})
        request = direct_request(inbound, upstream.forwarded(target), upstream.host, upgrade=upgrade)
        exchange = await self._pool(upstream.url).open(request, upstream.timeout_s)
        if isinstance(exchange, (ConnectFailed, TimedOut)):
            await _unanswered(exchange, upstream, send)
            return
        # What asks for 100 Continue sends its body when the upstream says so.
        expects = request.has_body and any(name == b"expect" for name, _ in inbound.headers)
        add_nothing(scope)
        passage = _Passage(exchange, receive, send, upstream, bodiless=not request.has_body, expects=expects)
        passage.passes_early = CYCLE in scope
        try:
            with self._counted(passage):
                failure = await passage.run(upgrade=upgrade)
        except asyncio.CancelledError:
            # The server ends, and this caller has stopped reading: there is no other way to be rid of it.
            if not self._draining:
                raise
            return
        if failure is not None:
            await _unanswered(failure, upstream, send)

    async def drain(self, grace_s: float) -> None:
        """Wait until nothing is under way, or the time is over; then break the rest off."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        for passage in list(self._under_way):
            passage.break_off()
        for pool in self._pools.values():
            pool.close()

    def _pool(self, url: str) -> StreamOutboundPool:
        pool = self._pools.get(url)
        if pool is None:
            pool = self._pools[url] = self._outbound.pool(url)
        return pool

    @contextlib.contextmanager
    def _counted(self, passage: _Passage) -> Iterator[None]:
        self._under_way.add(passage)
        self._idle.clear()
        try:
            yield
        finally:
            passage.break_off()
            self._under_way.discard(passage)
            if not self._under_way:
                self._idle.set()


class _Passage:
    """One request on its way through."""

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
        self._asked = asyncio.Event()
        if not expects:
            self._asked.set()

    def break_off(self) -> None:
        """End it now, if it has not ended."""
        self._exchange.close()

    async def run(self, *, upgrade: bool) -> Failure | None:
        """Pass both bodies on; or say why there is no answer, and nothing was sent."""
        async with asyncio.TaskGroup() as tasks:
            upload = tasks.create_task(self._upload())
            try:
                return await self._download(upload, upgrade=upgrade)
            finally:
                upload.cancel()

    async def _upload(self) -> None:
        """The request's body, as the upstream takes it; then look whether the client hangs up."""
        if not self._asked.is_set():
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
        self._gone = True
        self._exchange.close()

    async def _download(self, upload: asyncio.Task[None], *, upgrade: bool) -> Failure | None:
        """The answer, as the client takes it."""
        patience_s = self._upstream.timeout_s
        head = await self._exchange.head(patience_s)
        while isinstance(head, StreamHead) and head.status < 200 and head.status != 101:
            if head.status == 100:  # whether that is passed on is for our own server to say
                self._asked.set()
            elif self.passes_early and not self._gone:
                await self._send({"type": EARLY, "head": _passed_on(head)})
            head = await self._exchange.head(patience_s)
        if self._gone:
            return None
        if not isinstance(head, StreamHead):
            return head
        if head.status == 101:
            if not upgrade:
                return CutOff("ERR_HTTP", "It switches protocols unasked", 0.0)
            await self._tunnel(head)
            return None
        start = _start(_passed_on(head))
        headers = start["headers"]
        if not self._asked.is_set():
            # The client may send its body all the same or keep it: what comes next could be either.
            headers.append((b"connection", b"close"))
            upload.cancel()
        await self._send(start)
        events = any(name.lower() == b"content-type" and b"event-stream" in value.lower() for name, value in headers)
        await self._pass_back(None if events else patience_s)
        return None

    async def _tunnel(self, head: StreamHead) -> None:
        """Both sides speak something else from here on."""
        protocol = next((value for name, value in head.headers if name.lower() == b"upgrade"), b"websocket")
        start = _start(_passed_on(head))
        start["headers"] += [(b"connection", b"Upgrade"), (b"upgrade", protocol)]
        await self._send(start)
        self._wanted = True
        await self._pass_back(None)

    async def _pass_back(self, patience_s: float | None) -> None:
        """The answer's body. One that stands still for so long is cut off; events may be as rare as they like."""
        exchange = self._exchange
        over = False
        while not over:
            piece = await exchange.read(patience_s)
            if not isinstance(piece, bytes):
                if not self._gone:
                    log.warning("passthrough.cut_off", upstream=self._upstream.prefix, error=_reason(piece))
                await self._send({"type": CUT_OFF})
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


def _reason(failure: Failure) -> str:
    return f"no answer within {failure.duration_s:.1f} s" if isinstance(failure, TimedOut) else failure.detail


async def _unanswered(failure: Failure, upstream: Upstream, send: Send) -> None:
    log.warning("passthrough.unanswered", upstream=upstream.prefix, error=_reason(failure))
    late = isinstance(failure, TimedOut) and failure.phase == "answer"
    await send_own(own_error(504 if late else 502), send)
