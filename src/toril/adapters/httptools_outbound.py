"""Outbound HTTP/1.1: a small client on asyncio protocols and httptools' parser (llhttp, as in Node.js).

Owns connecting, pooling, timing out and reading whole answers. It must never raise for what a receiver does, nor
change what it is given: the head goes out byte for byte, the status line and the headers come back as sent. No
redirects, no cookies, no decompression, no proxy. It looks names up itself and connects to the very addresses that
its `Egress` has seen. Called by the engine through `toril.core.ports.Outbound`.

Why not a library: pyreqwest hides the reason phrase, which is what a failed job's `failedReason` is by contract,
and rewrites paths and header names; aiohttp keeps them at three times the cost. docs/decisions/0002 has the
measurement.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter  # the loop's own clock may stand still for a millisecond
from typing import cast
from urllib.parse import urlsplit

import httptools

from toril.core.destinations.base import OutboundRequest
from toril.core.egress import Egress, literal_address
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, TimedOut

IDLE_S = 4.0
"""How long an unused connection is kept: less than the five seconds after which most servers close theirs."""

MAX_HEADER_BYTES = 256 * 1024
"""More headers than this are no answer; servers and proxies mostly stop at 8 to 64 KB."""

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Looks a host name up: its addresses, the best one first. Raises `socket.gaierror` where there are none."""


async def look_up(host: str) -> list[str]:
    """The addresses of a host as the system knows them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(_text(*address) for *_, address in found))


def _text(host: str | int, _port: object = 0, _flow: object = 0, zone: int = 0) -> str:
    return f"{host}%{zone}" if zone else str(host)


class HttptoolsOutbound:
    """Makes pools that share nothing but their limits.

    Args:
        connect_timeout_s: for name lookup, TCP and TLS together; the request's own timeout still covers all.
        max_response_bytes: an answer with a larger body is cut off.
        egress: which addresses may be connected to; None is for URLs that the operator has chosen, or toril itself.
        resolve: looks names up.
    """

    def __init__(
        self,
        connect_timeout_s: float,
        max_response_bytes: int,
        egress: Egress | None = None,
        resolve: Resolve = look_up,
    ) -> None:
        self.connect_timeout_s = connect_timeout_s
        self.max_response_bytes = max_response_bytes
        self.egress = egress
        self.resolve = resolve
        self._tls: ssl.SSLContext | None = None

    def pool(self, url: str) -> HttpPool:
        """A pool for the origin of this URL. Opens nothing yet."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        tls = parts.scheme == "https"
        return HttpPool(self, host, parts.port or (443 if tls else 80), tls=tls)

    def tls(self) -> ssl.SSLContext:
        """The system's certificate authorities, loaded when the first https pool connects."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


class HttpPool:
    """Connections to one origin, as many as there are requests under way; the idle ones wait for the next."""

    __slots__ = ("_closed", "_host", "_idle", "_literal", "_loop", "_outbound", "_port", "_sweep", "_tls")

    def __init__(self, outbound: HttptoolsOutbound, host: str, port: int, *, tls: bool) -> None:
        self._outbound = outbound
        self._host = host
        literal = literal_address(host)
        self._literal = None if literal is None else host if ":" in host else str(literal)
        self._port = port
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(self, request: OutboundRequest) -> Outcome:
        """Make one request and read the whole answer.

        A pooled connection that turns out to have been closed before a single byte of the answer is replaced by
        a new one and the request is made again: the receiver closed it as idle in the same moment.
        """
        started = perf_counter()
        body = request.body
        data = b"%bcontent-length: %d\r\n\r\n%b" % (request.head, len(body), body)
        while (connection := self._take()) is not None:
            outcome = await connection.exchange(data, started, request.timeout_s)
            if outcome is not None:
                return outcome
        made = await self._connect(started, request.timeout_s)
        if not isinstance(made, _Connection):
            return made
        outcome = await made.exchange(data, started, request.timeout_s)
        if outcome is not None:
            return outcome
        return CutOff("ECONNRESET", "The connection was closed before an answer came", perf_counter() - started)

    def close(self) -> None:
        """Let idle connections go; those in use end with their request."""
        self._closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    def give_back(self, connection: _Connection) -> None:
        """A connection whose exchange is over and that may carry another one."""
        if self._closed:
            connection.abort()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_S, self._close_idle)

    def _close_idle(self) -> None:
        # Used last in, first out, so those that have been idle longest stand in front.
        before = self._loop.time() - IDLE_S
        stale = 0
        while stale < len(self._idle) and self._idle[stale].idle_since <= before:
            self._idle[stale].abort()
            stale += 1
        del self._idle[:stale]
        self._sweep = self._loop.call_later(IDLE_S, self._close_idle) if self._idle else None

    async def _connect(self, started: float, timeout_s: float) -> _Connection | ConnectFailed | TimedOut:
        """A connection to the first address that is allowed and answers; else what the first of them came to."""
        ends_at = min(perf_counter() + self._outbound.connect_timeout_s, started + timeout_s)
        try:
            addresses, refusals = await self._addresses(ends_at - perf_counter())
        except TimeoutError:
            return TimedOut("connect", perf_counter() - started)
        except socket.gaierror as exc:
            detail = f"The host name {self._host} cannot be resolved ({exc.strerror})"
            return ConnectFailed("ENOTFOUND", detail, perf_counter() - started)
        except (OSError, UnicodeError) as exc:
            return ConnectFailed(*_named(exc, self._host, self._port), perf_counter() - started)
        first: ConnectFailed | TimedOut | None = None
        for tried, address in enumerate(addresses):
            # An address that does not answer must leave time for the others.
            share_s = (ends_at - perf_counter()) / (len(addresses) - tried)
            made = await self._connect_to(address, share_s, started)
            if isinstance(made, _Connection):
                return made
            first = first or made
        return first or ConnectFailed("EGRESS_DENIED", "; ".join(refusals), perf_counter() - started)

    async def _addresses(self, patience_s: float) -> tuple[list[str], list[str]]:
        """The host's addresses that may be connected to, and why the others may not."""
        egress = self._outbound.egress
        denied = egress.refuses_host(self._host) if egress is not None else None
        if denied is not None:
            return [], [denied]
        if self._literal is not None:
            return [self._literal], []
        async with asyncio.timeout(patience_s):
            found = await self._outbound.resolve(self._host)
        if egress is None:
            return list(found), []
        judged = [(address, egress.refuses(self._host, address)) for address in found]
        allowed = [address for address, refusal in judged if refusal is None]
        return allowed, [refusal for _, refusal in judged if refusal is not None]

    async def _connect_to(
        self, address: str, patience_s: float, started: float
    ) -> _Connection | ConnectFailed | TimedOut:
        try:
            async with asyncio.timeout(patience_s):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self._loop, self.give_back, self._outbound.max_response_bytes),
                    address,  # not the name: a second look-up could come to another address
                    self._port,
                    ssl=self._outbound.tls() if self._tls else None,
                    server_hostname=self._host if self._tls else None,
                )
        except TimeoutError:
            return TimedOut("connect", perf_counter() - started)
        except ssl.SSLError as exc:
            return ConnectFailed("ERR_TLS", exc.reason or str(exc), perf_counter() - started)
        except (OSError, UnicodeError) as exc:
            return ConnectFailed(*_named(exc, self._host, self._port), perf_counter() - started)
        return connection


def _named(exc: OSError | UnicodeError, host: str, port: int) -> tuple[str, str]:
    number = exc.errno if isinstance(exc, OSError) else None
    code = errno.errorcode.get(number or 0, "ENOTFOUND" if isinstance(exc, UnicodeError) else "ECONNFAILED")
    if code == "ECONNREFUSED":
        return code, f"Nothing accepts connections at {host}:{port}"
    return code, f"{host}:{port}: {exc}"


class _Connection(asyncio.Protocol):
    """One connection, one exchange at a time. The methods named on_… are what httptools' parser calls."""

    __slots__ = (
        "_answer", "_began", "_body", "_ended_headers", "_give_back", "_headers", "_loop", "_max_bytes", "_parser",
        "_reason", "_size", "_started", "_transport", "idle_since",
    )  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, give_back: Callable[[_Connection], None], max_bytes: int
    ) -> None:
        self._loop = loop
        self._give_back = give_back
        self._max_bytes = max_bytes
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Outcome | None] | None = None
        self._started = 0.0
        self.idle_since = 0.0
        self._forget()

    def _forget(self) -> None:
        self._began = False
        self._ended_headers = False
        self._reason = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._size = 0

    @property
    def is_open(self) -> bool:
        """Whether another exchange can be tried."""
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, data: bytes, started: float, timeout_s: float) -> Outcome | None:
        """Send a request and wait for its answer; None when the connection was gone before any of it came."""
        assert self._transport is not None  # noqa: S101 - set by connection_made, before anybody has this object
        self._started = started
        answer: asyncio.Future[Outcome | None] = self._loop.create_future()
        self._answer = answer
        self._transport.write(data)
        timer = self._loop.call_later(started + timeout_s - perf_counter(), self._time_out)
        try:
            return await answer
        finally:
            timer.cancel()
            if self._answer is answer:  # cancelled: what comes now must not be taken for another answer
                self._answer = None
                self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if self._answer is None:
            self.abort()  # nobody asked for this
            return
        self._began = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._cut_off("ERR_HTTP", "The answer switches protocols")
        except httptools.HttpParserError as exc:
            self._cut_off("ERR_HTTP", f"The answer is not HTTP/1.1: {exc}")

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
        framed = (b"content-length", b"transfer-encoding")
        return not any(name.lower() in framed for name, _ in self._headers)

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self._answer is None:
            self.abort()  # a second answer to one request

    def on_status(self, status: bytes) -> None:
        """Called by the parser, perhaps piece by piece."""
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._size += len(name) + len(value)
        if self._size > MAX_HEADER_BYTES:
            self._cut_off("ERR_HEADERS_TOO_LARGE", f"The answer's headers are larger than {MAX_HEADER_BYTES} bytes")
            return
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._ended_headers = True
        self._size = 0

    def on_body(self, body: bytes) -> None:
        """Called by the parser for each piece."""
        self._size += len(body)
        if self._size > self._max_bytes:
            self._cut_off("ERR_BODY_TOO_LARGE", f"The answer's body is larger than {self._max_bytes} bytes")
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._parser.get_status_code() < 200:  # 100 Continue, 103 Early Hints: the answer is still to come
            self._forget()
            self._began = True
            return
        self._finish()

    def _finish(self) -> None:
        if self._answer is None:
            return
        body = self._body
        answered = Answered(
            self._parser.get_status_code(),
            self._reason.decode("latin-1"),
            self._headers,
            body[0] if len(body) == 1 else b"".join(body),
            self._elapsed_s(),
        )
        self._forget()
        if self._parser.should_keep_alive() and self.is_open:
            self._give_back(self)
        else:
            self.abort()
        self._end(answered)
