"""One request whose bodies are streamed, both ways at once: what passes through to an upstream.

Owns the framing of the request's body and the one repetition of a request that may be made twice. It never holds more
than a few hundred KB of a body, and raises nothing for what an upstream does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter

from toril.core.http.streaming import StreamHead, StreamRequest
from toril.core.outcome import ConnectFailed, CutOff, TimedOut
from toril.http_client.answer_reader import AnswerLimits
from toril.http_client.connection import HttpConnection
from toril.http_client.idle_connections import IdleConnections

Connect = Callable[[float, float], Awaitable[HttpConnection | ConnectFailed | TimedOut]]
"""Makes a connection, for a request that began then (`perf_counter`) and may take so many seconds."""


Told = Callable[[int, str], ConnectFailed | None]
"""Is told status and reason of the real head; returns the failure that such an answer is."""


class HttpExchange:
    """One request under way; see the port `Exchange`. One task may write while another one reads.

    Args:
        request: what is asked.
        started: when it began (`perf_counter`).
        idle: where a connection goes that may carry another exchange.
        connect: makes another connection where `connection` turns out to be closed; None if that one is new.
        limits: what the answer may be.

    Attributes:
        told: hears of the answer's head before the caller does.
    """

    def __init__(
        self,
        connection: HttpConnection,
        request: StreamRequest,
        started: float,
        idle: IdleConnections,
        connect: Connect | None,
        limits: AnswerLimits,
    ) -> None:
        self._connection = connection
        self._request = request
        self._started = started
        self._idle = idle
        self._connect = connect
        self.told: Told | None = None
        self._limits = limits
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        request, connection = self._request, self._connection
        if request.chunked:
            framing = b"transfer-encoding: chunked\r\n\r\n"
        elif request.length is not None:
            framing = b"content-length: %d\r\n\r\n" % request.length
        else:
            framing = b"\r\n"
        connection.watch_peer()
        connection.moved(ago_s=perf_counter() - self._started)
        connection.begin(
            request.head + framing,
            self._limits,
            head_only=request.method == b"HEAD",
            written=not request.has_body,
        )

    @property
    def over(self) -> bool:
        """Part of Exchange."""
        reader = self._connection.reader
        return reader.ended and not reader.pieces

    async def head(self, patience_s: float) -> StreamHead | ConnectFailed | TimedOut | CutOff:
        """Part of Exchange."""
        found: StreamHead | ConnectFailed | TimedOut | CutOff | None = await self._head(patience_s)
        if found is None and self._connect is not None:
            connect, self._connect = self._connect, None
            made = await connect(self._started, patience_s)
            if not isinstance(made, HttpConnection):
                return made
            if self._closed:
                made.abort()
                return _ended()
            self._connection = made
            self._begin()
            found = await self._head(patience_s)
        if found is None:
            found = CutOff("ECONNRESET", "The connection was closed before an answer came", 0.0)
        if self.told is not None and isinstance(found, StreamHead) and found.status >= 200:
            fault = self.told(found.status, found.reason.decode("latin-1"))
            if fault is not None:
                self._connection.abort()
                found = fault
        if not isinstance(found, StreamHead):
            found.duration_s = perf_counter() - self._started
        return found

    async def _head(self, patience_s: float) -> StreamHead | TimedOut | CutOff | None:
        """Return the next head; None if the connection is lost before any of the answer has come.

        Neither a part of a head nor one below 200 gives the upstream more time.
        """
        connection = self._connection
        reader = connection.reader
        while not reader.heads:
            if reader.failure is not None:
                return reader.failure
            if not connection.in_use:
                return _ended()
            if not connection.is_open:
                return None
            if not await connection.news(patience_s):
                return TimedOut("answer", 0.0)
        head = reader.heads.pop(0)
        if head.status > 599:
            connection.abort()
            return CutOff("ERR_HTTP", f"The answer has the status {head.status}, which cannot be passed on", 0.0)
        return head

    def rest(self) -> bytes | None:
        """Part of Exchange."""
        reader = self._connection.reader
        if not reader.ended or reader.failure is not None or not self._connection.in_use:
            return None
        body = reader.take()
        self._connection.resume_reading()
        return body

    async def read(self, patience_s: float | None) -> bytes | TimedOut | CutOff:
        """Part of Exchange."""
        connection = self._connection
        reader = connection.reader
        connection.moved()
        while not reader.pieces:
            if reader.ended:
                return b""
            if reader.failure is not None:
                return reader.failure
            if not connection.in_use:
                return _ended()
            if not await connection.news(patience_s):
                return TimedOut("answer", 0.0)
        body = reader.take()
        connection.resume_reading()
        return body

    async def write(self, data: bytes) -> bool:
        """Part of Exchange."""
        if self._request.chunked and not self._connection.reader.raw:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        return await self._connection.write(data)

    def end(self) -> None:
        """Part of Exchange."""
        self._connection.finish_request(b"0\r\n\r\n" if self._request.chunked else b"")

    def close(self) -> None:
        """Part of Exchange."""
        if self._closed:
            return  # the connection may carry another exchange by now
        self._closed = True
        if self._connection.reader.raw:
            self._connection.close()
        else:
            self._idle.give_back(self._connection)


def _ended() -> CutOff:
    return CutOff("ECONNABORTED", "The exchange was ended", 0.0)
