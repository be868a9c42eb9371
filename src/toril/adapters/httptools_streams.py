"""Outbound HTTP/1.1 whose bodies are streamed, both ways at once: for requests that pass through to an upstream.

Owns framing, pooling and back pressure. It must never hold more than a few hundred KB of a body, nor change what it is
given: heads go out byte for byte, statuses and headers come back as sent. No redirects, no decompression. It raises
nothing for what an upstream does. Called by `toril.gateway.passthrough` through the port `StreamOutbound`.

Why beside `httptools_outbound.py`: there an answer is read whole, on a path where every microsecond counts.
docs/decisions has the comparison with aiohttp.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from time import perf_counter

import httptools

from toril.adapters.connecting import Connector, Network
from toril.adapters.idle_connections import IdleConnections, KeptConnection
from toril.core.headers import ANSWER_HEAD_BYTES, CHUNK_LINE_BYTES, FRAMED_BY, Header, foreign_coding
from toril.core.outcome import FOREIGN_CODING, ConnectFailed, CutOff, TimedOut, coding_refused
from toril.core.streaming import BODILESS, StreamHead, StreamRequest

_HIGH_WATER_BYTES = 256 * 1024
_FLUSH_S = 5.0
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Let the kernel find out within a minute that the other machine is gone."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # macOS has others
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class HttptoolsStreams:
    """Makes pools. Upstreams are chosen by the operator, so no address is refused.

    Args:
        connect_timeout_s: for name lookup, TCP and TLS together.
        max_head_bytes: an answer with more than this that is no body (heads, trailer, framing) is cut off.
        network: what all connections share; made here where it is not given.
    """

    def __init__(
        self, connect_timeout_s: float, max_head_bytes: int = ANSWER_HEAD_BYTES, network: Network | None = None
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._max_head_bytes = max_head_bytes
        self._network = network or Network()

    def pool(self, url: str) -> StreamPool:
        """A pool for the origin of this URL. Opens nothing yet."""
        return StreamPool(Connector(url, self._connect_timeout_s, None, self._network), self._max_head_bytes)


class StreamPool(IdleConnections["_Connection"]):
    """Connections to one origin, as many as there are requests under way; the idle ones wait for the next."""

    def __init__(self, connector: Connector, max_head_bytes: int) -> None:
        super().__init__()
        self._connector = connector
        self._max_head_bytes = max_head_bytes

    async def open(self, request: StreamRequest, timeout_s: float) -> HttptoolsExchange | ConnectFailed | TimedOut:
        """Begin a request: connect, and send its head.

        Only a request that may be made twice goes over a connection that has served another one: the upstream may be
        closing it in this moment, and then whether the request was heard is unknown.
        """
        started = perf_counter()
        connection = self._take() if request.repeatable else None
        reused = connection is not None
        if connection is None:
            made = await self._connector.connect(self._connection, started, timeout_s)
            if not isinstance(made, _Connection):
                return made
            connection = made
        return HttptoolsExchange(self, connection, request, started, reused=reused)

    async def another(self, started: float, timeout_s: float) -> _Connection | ConnectFailed | TimedOut:
        """A connection that has served nobody."""
        return await self._connector.connect(self._connection, started, timeout_s)

    def _connection(self) -> _Connection:
        return _Connection(self._loop, self._max_head_bytes)


class HttptoolsExchange:
    """One request under way. One task may write while another one reads."""

    def __init__(
        self, pool: StreamPool, connection: _Connection, request: StreamRequest, started: float, *, reused: bool
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._request = request
        self._started = started
        self._reused = reused
        self._whole = not request.has_body
        connection.begin(request, perf_counter() - started)

    @property
    def over(self) -> bool:
        """Whether the whole answer has been read."""
        return self._connection.over

    async def head(self, patience_s: float) -> StreamHead | ConnectFailed | TimedOut | CutOff:
        """The next head of the answer: any number below 200, then the real one. See the port."""
        found = await self._connection.head(patience_s)
        if found is None and self._reused:
            self._reused = False
            made = await self._pool.another(self._started, patience_s)
            if not isinstance(made, _Connection):
                return made
            self._connection = made
            made.begin(self._request, perf_counter() - self._started)
            found = await made.head(patience_s)
        if found is None:
            found = CutOff("ECONNRESET", "The connection was closed before an answer came", 0.0)
        if not isinstance(found, StreamHead):
            found.duration_s = perf_counter() - self._started
        return found

    async def read(self, patience_s: float | None) -> bytes | TimedOut | CutOff:
        """What has come of the body since; nothing at its end. See the port."""
        return await self._connection.read(patience_s)

    async def write(self, data: bytes) -> bool:
        """Send a piece of the body. See the port."""
        if self._request.chunked and not self._connection.raw:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        return await self._connection.write(data)

    def end(self) -> None:
        """The body is whole."""
        self._whole = True
        self._connection.asked_whole(b"0\r\n\r\n" if self._request.chunked else b"")

    def close(self) -> None:
        """End it, whatever has come. A connection that may carry another request is kept."""
        connection = self._connection
        if connection.over and self._whole and connection.reusable:
            self._pool.give_back(connection, connection.rest())
        elif connection.raw:
            connection.close()
        else:
            connection.abort()


class _Connection(KeptConnection):
    """One connection, one exchange at a time. The methods named on_… are what httptools' parser calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_head_bytes: int) -> None:
        super().__init__(loop)
        self._loop = loop
        self._max_head_bytes = max_head_bytes
        self._writable = asyncio.Event()
        self._writable.set()
        self._parser = httptools.HttpResponseParser(self)
        self._in_use = False
        self._forget()

    def _forget(self) -> None:
        self._bodiless = False
        self._waiter: asyncio.Future[bool] | None = None
        self._heads: deque[StreamHead] = deque()
        self._parts: list[bytes] = []
        self._size = 0
        self._paused = False
        self._began = False
        self._ended = False
        self._framed = True
        self._final = False
        self._failure: CutOff | None = None
        self._asked_whole = False
        self._moved_at = self._loop.time()
        self.raw = False
        self.reusable = False
        self._in_head = False
        self._reason = b""
        self._headers: list[Header] = []
        # What has come that is no body, all heads together: as its lines end, and as bytes whether or not they do.
        self._line_bytes = 0
        self._framing_bytes = 0

    @property
    def over(self) -> bool:
        """Whether the whole answer has come and been read."""
        return self._ended and not self._parts

    def begin(self, request: StreamRequest, spent_s: float) -> None:
        """Send a request's head. So much of the time to the answer's head is spent already."""
        self._forget()
        self._moved_at -= spent_s
        self._in_use = True
        self._bodiless = request.method == b"HEAD"
        self._asked_whole = not request.has_body
        if request.chunked:
            framing = b"transfer-encoding: chunked\r\n\r\n"
        elif request.length is not None:
            framing = b"content-length: %d\r\n\r\n" % request.length
        else:
            framing = b"\r\n"
        if self._transport is not None:
            self._transport.write(request.head + framing)

    def asked_whole(self, last: bytes) -> None:
        """The body that goes out is whole."""
        if last and self.is_open and not self._ended:
            assert self._transport is not None  # noqa: S101 - it is open
            self._transport.write(last)
        self._asked_whole = True
        self._moved_at = self._loop.time()

    async def write(self, data: bytes) -> bool:
        """Send bytes, and wait until more may follow; False when nobody takes them."""
        if not self.is_open or (self._ended and not self.raw):
            return False
        assert self._transport is not None  # noqa: S101 - it is open
        self._transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()
        self._moved_at = self._loop.time()
        return bool(self.is_open)

    async def head(self, patience_s: float) -> StreamHead | TimedOut | CutOff | None:
        """The next head; None when the connection was gone before any of the answer came.

        Neither a part of a head nor one below 200 makes the upstream's time any longer.
        """
        while not self._heads:
            if self._failure is not None:
                return self._failure
            if not self._in_use:
                return CutOff("ECONNABORTED", "The exchange was ended", 0.0)
            if not self.is_open:
                return None if not self._began else CutOff("ECONNRESET", "The connection was closed in the head", 0.0)
            if not await self._woken(patience_s):
                return TimedOut("answer", 0.0)
        return self._heads.popleft()

    async def read(self, patience_s: float | None) -> bytes | TimedOut | CutOff:
        """What has come, as soon as there is something; nothing at the end."""
        self._moved_at = self._loop.time()
        while not self._parts:
            if self._ended:
                return b""
            if self._failure is not None:
                return self._failure
            if not self._in_use:
                return CutOff("ECONNABORTED", "The exchange was ended", 0.0)
            if not await self._woken(patience_s):
                return TimedOut("answer", 0.0)
        parts, self._parts = self._parts, []
        self._size = 0
        if self._paused:
            self._paused = False
            if self._transport is not None:
                self._transport.resume_reading()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _woken(self, patience_s: float | None) -> bool:
        """Wait for news; False when there were none for so long although the upstream had all it can ask for."""
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiter = waiter
        timer = None
        if patience_s is not None:
            left_s = self._moved_at + patience_s - self._loop.time()
            timer = self._loop.call_later(max(left_s, 0.0), self._look, waiter, patience_s)
        try:
            return await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _look(self, waiter: asyncio.Future[bool], patience_s: float) -> None:
        """The time is over, unless it is the caller that keeps the upstream waiting, or the body still moves."""
        if waiter.done():
            return
        now = self._loop.time()
        if not self._asked_whole and self._writable.is_set():
            self._moved_at = now
        left_s = self._moved_at + patience_s - now
        if left_s > 0:
            self._loop.call_later(left_s, self._look, waiter, patience_s)
        else:
            waiter.set_result(False)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(True)

    def abort(self) -> None:
        """Close at once."""
        self._in_use = False
        super().abort()
        self._writable.set()
        self._wake()

    def rest(self) -> list[Header]:
        """The exchange is over; whatever comes now was not asked for. Returns the headers of its answer."""
        self._in_use = False
        return self._headers

    def close(self) -> None:
        """Close when all that was written is sent, which has a few seconds."""
        self._in_use = False
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(_FLUSH_S, self._transport.abort)
        self._writable.set()
        self._wake()

    def _cut_off(self, code: str, detail: str) -> None:
        self._failure = self._failure or CutOff(code, detail, 0.0)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._writable.set()
        self._wake()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        super().connection_made(transport)
        keep_alive(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._transport = None
        self._writable.set()
        if not self._in_use:
            return
        if self._final and not self._ended:
            if exc is None and (self.raw or not self._framed):
                self._ended = True
            else:
                self._failure = CutOff("ECONNRESET", "The connection was closed before the answer was whole", 0.0)
        self._wake()

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._moved_at = self._loop.time()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if not self._in_use or (self._ended and not self.raw):
            self.abort()  # nobody asked for this
            return
        self._began = True
        if self.raw:
            self._keep(data)
        else:
            self._parse(data)
        if self._size > _HIGH_WATER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def _parse(self, data: bytes) -> None:
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.raw = True
            self._framed = False
            rest = data[upgrade.args[0] :]
            if rest:
                self._keep(rest)
        except httptools.HttpParserError as exc:
            self._cut_off("ERR_HTTP", f"The answer is not HTTP/1.1: {exc}")
        if self._framing_bytes > self._max_head_bytes and not (self._ended or self.raw):
            self._too_large()
        elif self._framing_bytes < 0:
            self._framing_bytes = 0  # what earlier chunks did not need is no room for what comes behind them
        if self._bodiless and self._ended:  # the parser does not know, and waits for a body
            self._parser = httptools.HttpResponseParser(self)

    def _keep(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)

    def _too_large(self) -> None:
        self._cut_off("ERR_HEADERS_TOO_LARGE", f"The answer's headers are larger than {self._max_head_bytes} bytes")

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self._ended:
            self._cut_off("ERR_HTTP", "There are two answers to one request")
            return
        self._in_head = True
        self._reason = b""
        self._headers = []

    def on_status(self, status: bytes) -> None:
        """Called by the parser, perhaps piece by piece."""
        self._reason += status
        self._line_bytes += len(status)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, also for trailers: those are no headers (RFC 9110 6.5.1), and are not passed on."""
        self._line_bytes += len(name) + len(value) + 4
        if self._line_bytes > self._max_head_bytes:
            self._too_large()
        elif self._in_head:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_head = False
        if self._line_bytes > self._max_head_bytes:
            self._too_large()
        if self._failure is not None or self._ended:
            return
        status = self._parser.get_status_code()
        self._final = status >= 200 or status == 101
        if not 100 <= status <= 599:
            self._cut_off("ERR_HTTP", f"The answer has the status {status}, which cannot be passed on")
            return
        head = StreamHead(status, self._headers, self._reason)
        if not self._final:
            self._heads.append(head)
            return
        if self._bodiless or status in BODILESS:
            self._bodiless = True
            self.reusable = self._parser.should_keep_alive()
            self._ended = True
        else:
            coding = foreign_coding(self._headers)
            if coding is not None:
                self._cut_off(FOREIGN_CODING, coding_refused(coding))
                return
            self._framed = any(name.lower() in FRAMED_BY for name, _ in self._headers)
        self._heads.append(head)

    def on_chunk_header(self) -> None:
        """Called by the parser for the line before each chunk."""
        self._framing_bytes -= CHUNK_LINE_BYTES

    def on_body(self, body: bytes) -> None:
        """Called by the parser for each piece."""
        self._framing_bytes -= len(body)
        if self._ended:
            self.reusable = False  # behind an answer that can have none
        elif self._failure is None:
            self._keep(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._final and not self._ended and self._parser.get_status_code() != 101:
            self._ended = True
            self.reusable = self._parser.should_keep_alive()
