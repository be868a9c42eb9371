"""Outbound HTTP/1.1: a small client on asyncio protocols and httptools' parser (llhttp, as in Node.js).

Owns pooling, timing out and reading whole answers; `connecting.py` connects. It must never raise for what a receiver
does, nor change what it is given: the head goes out byte for byte, the status line and the headers come back as sent.
No redirects, no cookies, no proxy; a body is unpacked only for a request that asks for it. Called by the engine through
`toril.core.ports.calls.Outbound`.

Why not a library: pyreqwest hides the reason phrase, which is what a failed job's `failedReason` is by contract,
and rewrites paths and header names; aiohttp keeps them at three times the cost. docs/decisions/0002 has the
measurement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter  # the loop's own clock may stand still for a millisecond

import httptools

from toril.adapters.compressed_answers import unpacked
from toril.adapters.connecting import Connector, Network
from toril.adapters.idle_connections import IdleConnections, KeptConnection
from toril.core.blob import StreamedBody
from toril.core.destinations.base import OutboundRequest
from toril.core.egress import Egress
from toril.core.errors import StoreError
from toril.core.headers import ANSWER_HEAD_BYTES, CHUNK_LINE_BYTES, FRAMED_BY, Header, foreign_coding
from toril.core.outcome import BODY_UNREADABLE, FOREIGN_CODING, Answered, CutOff, Outcome, TimedOut, coding_refused
from toril.core.streaming import BODILESS

# More pieces of a body than this in one read are joined: a piece of two bytes takes 43 of memory.
_MOST_PIECES = 16


class HttptoolsOutbound:
    """Makes pools that share nothing but their limits.

    Args:
        connect_timeout_s: for name lookup, TCP and TLS together; the request's own timeout still covers all.
        max_response_bytes: an answer with a larger body is cut off, or taken without the rest of it (`truncate`).
        egress: which addresses may be connected to; None is for URLs that the operator has chosen, or toril itself.
        network: what all connections share; made here where it is not given.
        max_head_bytes: an answer with more than this that is no body (heads, trailer, framing) is cut off.
    """

    def __init__(
        self,
        connect_timeout_s: float,
        max_response_bytes: int,
        egress: Egress | None = None,
        network: Network | None = None,
        *,
        truncate: bool = False,
        max_head_bytes: int = ANSWER_HEAD_BYTES,
    ) -> None:
        self.truncate = truncate
        self.max_head_bytes = max_head_bytes
        self.connect_timeout_s = connect_timeout_s
        self.max_response_bytes = max_response_bytes
        self.egress = egress
        self.network = network or Network()

    def pool(self, url: str) -> HttpPool:
        """A pool for the origin of this URL. Opens nothing yet."""
        return HttpPool(Connector(url, self.connect_timeout_s, self.egress, self.network), self)


class HttpPool(IdleConnections["_Connection"]):
    """Connections to one origin, as many as there are requests under way; the idle ones wait for the next."""

    __slots__ = ("_connector", "_outbound")

    def __init__(self, connector: Connector, outbound: HttptoolsOutbound) -> None:
        super().__init__()
        self._connector = connector
        self._outbound = outbound

    async def send(self, request: OutboundRequest) -> Outcome:
        """Make one request and read the whole answer.

        What may have reached the receiver is not sent again. Only a request that may be repeated is, once and on a new
        connection, where a kept one is closed before a single byte of the answer: as idle, most likely.
        """
        started = perf_counter()
        body = request.body
        if request.framed:
            data = b"%b\r\n%b" % (request.head, body)
        else:
            size = len(body) if request.stream is None else request.stream.size_bytes
            data = b"%bcontent-length: %d\r\n\r\n%b" % (request.head, size, body)
        connection = self._take()
        if connection is not None:
            outcome = await connection.exchange(data, started, request)
            if outcome is not None:
                return outcome
            if not request.repeatable:
                return _unanswered(started)
        made = await self._connector.connect(self._connection, started, request.timeout_s)
        if not isinstance(made, _Connection):
            return made
        outcome = await made.exchange(data, started, request)
        return _unanswered(started) if outcome is None else outcome

    def _connection(self) -> _Connection:
        return _Connection(self._loop, self.give_back, self._outbound)


def _unanswered(started: float) -> CutOff:
    return CutOff("ECONNRESET", "The connection was closed before an answer came", perf_counter() - started)


class _Connection(KeptConnection):
    """One connection, one exchange at a time. The methods named on_… are what httptools' parser calls."""

    __slots__ = (
        "_answer", "_began", "_body", "_ended_headers", "_framing_bytes", "_give_back", "_head_only", "_headers",
        "_joined", "_line_bytes", "_loop", "_max_bytes", "_max_head_bytes", "_parser", "_reason", "_resumed",
        "_sending", "_size", "_started", "_truncate", "_unpacks",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        give_back: Callable[[_Connection, list[Header]], None],
        limits: HttptoolsOutbound,
    ) -> None:
        super().__init__(loop)
        self._loop = loop
        self._give_back = give_back
        self._truncate = limits.truncate
        self._max_bytes = limits.max_response_bytes
        self._max_head_bytes = limits.max_head_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Outcome | None] | None = None
        self._started = 0.0
        self._head_only = False
        self._unpacks = False
        self._sending = False
        self._resumed: asyncio.Future[None] | None = None
        self._forget()

    def _forget(self) -> None:
        self._began = False
        self._body: list[bytes] = []
        # So many of these pieces came with earlier reads.
        self._joined = 0
        self._size = 0
        # What has come that is no body, all heads together: as its lines end, and as bytes whether or not they do.
        self._line_bytes = 0
        self._framing_bytes = 0
        self._forget_head()

    def _forget_head(self) -> None:
        self._ended_headers = False
        self._reason = b""
        self._headers: list[Header] = []

    async def exchange(self, data: bytes, started: float, request: OutboundRequest) -> Outcome | None:
        """Send a request and wait for its answer; None when the connection was gone before any of it came."""
        assert self._transport is not None  # noqa: S101 - set by connection_made, before anybody has this object
        self._started = started
        self._head_only = request.head_only
        self._unpacks = request.unpacks
        answer: asyncio.Future[Outcome | None] = self._loop.create_future()
        self._answer = answer
        self._transport.write(data)
        timer = self._loop.call_later(started + request.timeout_s - perf_counter(), self._time_out)
        try:
            if request.stream is not None:
                await self._send(request.stream, answer, started + request.timeout_s - perf_counter())
            return await answer
        finally:
            timer.cancel()
            if self._answer is answer:  # cancelled: what comes now must not be taken for another answer
                self._answer = None
                self.abort()

    async def _send(self, body: StreamedBody, answer: asyncio.Future[Outcome | None], patience_s: float) -> None:
        """Send a body piece by piece, as fast as the receiver takes it and for as long as it has not answered."""
        self._sending = True
        try:
            async with asyncio.timeout(patience_s):
                async for piece in body.open():
                    if answer.done() or self._transport is None:
                        return
                    self._transport.write(piece)
                    if self._resumed is not None:
                        await asyncio.wait((self._resumed, answer), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            return  # as `_time_out` has said, or says now
        except StoreError as exc:
            self._cut_off(BODY_UNREADABLE, exc.message)
            return
        self._sending = False

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._resumed = self._loop.create_future()

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_result(None)

    def _elapsed_s(self) -> float:
        return perf_counter() - self._started

    def _end(self, outcome: Outcome | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(outcome)

    def _time_out(self) -> None:
        self.abort()
        self._end(TimedOut("answer", self._elapsed_s()))

    def _cut_off(self, code: str, detail: str) -> None:
        self.abort()
        self._end(CutOff(code, detail, self._elapsed_s()))

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if self._answer is None:
            self.abort()  # nobody asked for this
            return
        self._began = True
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._cut_off("ERR_HTTP", "The answer switches protocols")
        except httptools.HttpParserError as exc:
            self._cut_off("ERR_HTTP", f"The answer is not HTTP/1.1: {exc}")
        if self._framing_bytes > self._max_head_bytes:
            self._too_large()
        elif self._framing_bytes < 0:
            self._framing_bytes = 0  # what earlier chunks did not need is no room for what comes behind them
        if len(self._body) - self._joined > _MOST_PIECES:
            self._body[self._joined :] = [b"".join(self._body[self._joined :])]
        self._joined = len(self._body)

    def _too_large(self) -> None:
        self._cut_off("ERR_HEADERS_TOO_LARGE", f"The answer's headers are larger than {self._max_head_bytes} bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._transport = None
        if self._answer is None:
            return
        if not self._began:
            self._end(None)
        elif exc is None and self._ended_headers and self._ends_with_connection():
            self._finish()
        else:
            self._end(CutOff("ECONNRESET", "The connection was closed before the answer was whole", self._elapsed_s()))

    def _ends_with_connection(self) -> bool:
        return not any(name.lower() in FRAMED_BY for name, _ in self._headers)

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self._answer is None:
            self.abort()  # a second answer to one request

    def on_status(self, status: bytes) -> None:
        """Called by the parser, perhaps piece by piece."""
        self._reason += status
        self._line_bytes += len(status)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, also for trailers: those are no headers (RFC 9110 6.5.1)."""
        self._line_bytes += len(name) + len(value) + 4
        if self._line_bytes > self._max_head_bytes:
            self._too_large()
        elif not self._ended_headers:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._ended_headers = True
        status = self._parser.get_status_code()
        if self._line_bytes > self._max_head_bytes:
            self._too_large()
        elif status < 100:
            self._cut_off("ERR_HTTP", f"The answer has the status {status}")
        elif self._head_only and status >= 200:
            self._finish()  # the parser would wait for a body, so this connection can carry no other exchange
        elif status >= 200 and status not in BODILESS and (coding := foreign_coding(self._headers)) is not None:
            self._cut_off(FOREIGN_CODING, coding_refused(coding))

    def on_chunk_header(self) -> None:
        """Called by the parser for the line before each chunk."""
        self._framing_bytes -= CHUNK_LINE_BYTES

    def on_body(self, body: bytes) -> None:
        """Called by the parser for each piece."""
        self._framing_bytes -= len(body)
        self._size += len(body)
        if self._size > self._max_bytes and self._truncate:
            self._body.append(body[: len(body) - (self._size - self._max_bytes)])
            self._finish(truncated=True)
            return
        if self._size > self._max_bytes:
            self._cut_off("ERR_BODY_TOO_LARGE", f"The answer's body is larger than {self._max_bytes} bytes")
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._parser.get_status_code() < 200:  # 100 Continue, 103 Early Hints: the answer is still to come
            self._forget_head()
            return
        self._finish()

    def _finish(self, *, truncated: bool = False) -> None:
        if self._answer is None:
            return
        body = self._body
        answered = Answered(
            self._parser.get_status_code(),
            self._reason.decode("latin-1"),
            self._headers,
            body[0] if len(body) == 1 else b"".join(body),
            self._elapsed_s(),
            truncated=truncated,
        )
        self._forget()
        whole = not (truncated or self._head_only or self._sending)
        if whole and self._parser.should_keep_alive() and self.is_open:
            self._give_back(self, answered.headers)
        else:
            self.abort()
        self._end(unpacked(answered, self._max_bytes) if self._unpacks else answered)
