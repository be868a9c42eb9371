"""uvicorn's HTTP protocol, with bounds on the heads and trailers that callers send, and on the time that they take.

- A head, or what surrounds the chunks of a body (sizes, extensions, trailers), is refused with 431 as soon as it is
  larger than `max_head_bytes`, whether its lines are complete or not.
- Trailers are read and dropped: they are no headers (RFC 9110 6.5.1).
- A head that is not complete in time, or a body that stands still, is answered with 408. A connection without
  requests is closed. `ConnectionSweep` checks the times; there are no timers for each request.
- Pipelined requests are parsed one at a time, after the previous answer has been sent.
- Where file descriptors run out, connections that can be spared are closed.
- A whole request whose header lines have come before goes past the parser (`known_heads`).

WebSockets and tunnels have none of these bounds: they begin when their handshake has been answered.
docs/decisions/0010-uvicorn-protocols.md lists the parts of uvicorn that are used here.
"""

from __future__ import annotations

import asyncio
import fcntl
import termios
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from toril.core.errors import HeadTooLarge, RequestTimeout, TooManyConnections, TorilError
from toril.core.http.headers import header_lines
from toril.server.connection_sweep import ConnectionSweep, Spare, SweptConnection
from toril.server.gathered_writes import GatheringProtocol
from toril.server.peer_address import unmapped
from toril.server.request_cycle import RequestCycle
from toril.server.request_pieces import RequestPieces
from toril.web.responses import BytesResponse

Refusal = Callable[[str, bytes, TorilError], BytesResponse]
"""Makes the answer to a request with this method and target that is refused before the application has it."""

# A chunk's size, and the ends of two lines: what each chunk may bring along without being counted.
_PER_CHUNK = 32
# For how long and how much is read and dropped after a refusal: a connection that is closed earlier is reset, and the
# answer lost.
_LINGER_S = 2.0
_LINGER_BYTES = 2**20
# A younger connection without a head is likely to have one under way.
_YOUNG_S = 2.0
# A body of which nothing comes, or an answer of which nothing is taken, stands still after this time.
_STILL_S = 5.0


class BoundedProtocol(GatheringProtocol, SweptConnection):
    """One HTTP connection. The parser gets the bytes in `RequestPieces`, so that those of a head can be counted."""

    def __init__(self, *args: Any, sweep: ConnectionSweep, refusal: Refusal, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sweep = sweep
        self.number = next(sweep.numbers)
        self.most_head_bytes = sweep.policy.max_head_bytes
        self._refusal = refusal
        # The target of the current request, once it has come.
        self.url = b""
        # When the current wait began, by the sweep's clock.
        self._since = sweep.now
        self.in_head = True
        self._counted = 0
        self._pieces = RequestPieces()
        # The body has no known length.
        self._is_chunked = False
        self._length = 0
        self._trailer = False
        # Pipelined requests, from `_held_at` on: the request before them has yet to be answered.
        self._held = b""
        self._held_at = 0
        self._refused = False
        # Takes the bytes instead of the parser: in a tunnel, and after a refusal.
        self.aside: Callable[[bytes], None] | None = None
        # How much of an answer the caller has yet to take, and since when that has not changed.
        self._unsent = 0
        self._unsent_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Part of asyncio.Protocol."""
        super().connection_made(transport)
        self.client, self.server = unmapped(self.client), unmapped(self.server)
        self._since = self._sweep.now
        if len(self.connections) > self._sweep.most and not self._sweep.make_room(self.connections, self):
            self.refuse(TooManyConnections())

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        cycle = cast("RequestCycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            cycle.gone()
        super().connection_lost(exc)
        self.aside = None  # breaks a reference cycle, so that the memory is freed at once

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if self.aside is not None:
            self.aside(data)
            return
        if self._held:
            data = self._held[self._held_at :] + data
            self._held = b""
        elif self.in_head and not self._counted and ((cycle := self.cycle) is None or cycle.response_complete):
            if not self.take_known(data):
                self._walk(data, 0)
                self.learn(data)
            return
        self._walk(data, 0)

    @abstractmethod
    def take_known(self, data: bytes) -> bool:
        """Begin the request that these bytes are, where it can be read without the parser; return False elsewhere."""

    @abstractmethod
    def learn(self, data: bytes) -> None:
        """Note what the parser has read of these bytes, which began with a head."""

    def _drop(self, data: bytes) -> None:
        """Read and drop what comes after a refusal, up to a limit."""
        self._counted += len(data)
        if self._counted > _LINGER_BYTES:
            self.transport.abort()

    def _walk(self, data: bytes, at: int) -> None:
        """Give the parser `data` from `at` on, piece by piece; hold back what must wait for an answer."""
        size, pieces = len(data), self._pieces
        while at < size:
            cycle = self.cycle
            if self.in_head:
                if cycle is not None and not cycle.response_complete:
                    self._hold(data, at)
                    return
                if not self._counted:
                    self._since = self._sweep.now
            elif not cycle.response_complete:
                self._since = self._sweep.now
            end = pieces.end(data, at)
            piece = data if end - at == size else data[at:end]
            at = end
            try:
                if not self.in_head and pieces.body_left:
                    pieces.body_left -= len(piece)
                    self.parser.feed_data(piece)
                else:
                    self._feed(piece)
            except httptools.HttpParserUpgrade as upgrade:
                self.on_upgrade(piece[upgrade.args[0] :] + data[end:])
                return
            except httptools.HttpParserError as exc:
                self.parser_failed(exc)
                return
            if self._refused or self.transport.is_closing():
                return

    def _hold(self, data: bytes, at: int) -> None:
        self._held, self._held_at = data, at
        if len(data) - at > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def _feed(self, piece: bytes) -> None:
        """Give the parser one piece of a head, or of a chunked body, if there is still room for it."""
        if self.in_head:
            room = self.most_head_bytes - self._counted
            if len(piece) > room:
                if room:
                    self.parser.feed_data(piece[:room])  # the form of the answer depends on the request line
                self.refuse(HeadTooLarge())
                return
            self._counted += len(piece)
            self.parser.feed_data(piece)
        else:
            self._feed_chunks(piece)

    def _feed_chunks(self, piece: bytes) -> None:
        """Give the parser a piece of a chunked body; `on_body` subtracts what need not be counted."""
        self.parser.feed_data(piece)
        self._counted = max(0, self._counted + len(piece))
        if self._counted > self.most_head_bytes:
            self.refuse(HeadTooLarge(), in_body=True)
        elif self.in_head:  # the body has ended
            self._counted = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; drop one of a trailer."""
        if not self.in_head:
            self._trailer = True
            return
        name = name.lower()
        if name == b"content-length":
            self._length = int(value)
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def head_ended(self) -> None:
        """Record that the parser has reached the end of a head."""
        self.in_head = False
        self._counted = 0
        self._pieces.body_left, self._length = self._length, 0
        self._is_chunked = not self._pieces.body_left
        self._since = self._sweep.now

    def on_body(self, body: bytes) -> None:
        """Add a piece of the body."""
        if self._is_chunked:
            self._counted -= len(body) + _PER_CHUNK
        cycle = self.cycle
        if cycle.response_complete or self.parser.should_upgrade():  # as uvicorn
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End the request; the parser reports the end also for a head that asks for another protocol."""
        if self.parser.should_upgrade():
            return
        self.in_head = True
        if self._trailer:
            # A trailer `Connection: close` has closed the parser, which would swallow the client's next request.
            self._trailer = False
            self._new_parser()
        cycle = self.cycle
        if not cycle.response_complete:  # as uvicorn, of which the rest is in `ProxiedProtocol`
            cycle.more_body = False
            cycle.message_event.set()

    def begin_anew(self, head: bytes, rest: bytes) -> None:
        """Parse this head in place of the one that has been counted; `rest` came after it."""
        self._new_parser()
        self.in_head = True
        self._pieces.body_left = 0
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserError as exc:
            self.parser_failed(exc)
            return
        self._walk(rest, 0)

    def _new_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    @abstractmethod
    def parser_failed(self, error: httptools.HttpParserError) -> None:
        """Answer bytes that cannot be parsed."""

    @abstractmethod
    def on_upgrade(self, rest: bytes) -> None:
        """Handle a head that asks for another protocol; `rest` came after it."""

    def on_response_complete(self) -> None:
        """Continue with the next request. uvicorn would start a timer here."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._since = self._sweep.now
        self.url = b""
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self._held:
            held, self._held = self._held, b""
            self._walk(held, self._held_at)

    def refuse(self, error: TorilError, *, in_body: bool = False) -> None:
        """Answer the current request with an error, unless it has been answered, and end the connection."""
        method = self.parser.get_method().decode("ascii") if self.url else ""
        answer = self._refusal(method, self.url, error)
        self.end_with(rendered(answer, bodiless=method == "HEAD"), in_body=in_body)

    def end_with(self, answer: bytes, *, in_body: bool) -> None:
        """Send this as the last answer, unless one has begun, and end the connection.

        Args:
            in_body: the fault is in the body of the newest request, not in the head of the next one.
        """
        cycle = self.cycle
        is_answered = cycle is not None and (in_body or not cycle.response_complete) and cycle.response_started
        self._refused = True
        self.aside = self._drop
        self._counted = 0
        self._since = self._sweep.now
        # Drop what was kept of the head: 64 KB of short lines take 2 MB of memory.
        self.scope = None  # type: ignore[assignment]
        self.url = b""
        self.headers = []
        self._held = b""
        self._break_off()
        if is_answered:
            self.transport.close()
            return
        self.transport.write(answer)
        self.transport.write_eof()
        self.flow.resume_reading()

    def _break_off(self) -> None:
        """Tell the application that the caller has hung up, if it is still answering."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cast(RequestCycle, cycle).gone()
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()

    def shutdown(self) -> None:
        """End the connection, after the current answer if there is one: the server shuts down."""
        if self._refused:
            self.transport.close()
        else:
            super().shutdown()

    def check(self, now: float, slack_s: float) -> None:
        """Part of SweptConnection."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        if self.transport.is_closing():
            return
        limit_s = self._limit_s()
        if limit_s is None:
            self._since = now
        elif now - self._since > limit_s + slack_s:
            cycle = self.cycle
            if self._refused:
                self.transport.abort()
            elif self._counted if self.in_head else not cycle.response_complete:
                self.refuse(RequestTimeout())
            else:  # no request is under way
                self.transport.close()

    def _limit_s(self) -> float | None:
        """Return how long the current wait may take; None if the caller does not cause it."""
        cycle, policy = self.cycle, self._sweep.policy
        is_idle = cycle is None or cycle.response_complete
        if self._refused:
            return _LINGER_S
        if not self.in_head:
            return policy.body_timeout_s if is_idle or not self._waits_for_us() else None
        if not is_idle:
            return None
        return policy.head_timeout_s if self._counted or cycle is None else policy.idle_timeout_s

    def _waits_for_us(self) -> bool:
        """Return True while the caller has a reason to send no more of an incomplete body."""
        cycle = cast(Any, self.cycle)
        return bool(
            getattr(cycle, "tunnel", False)
            or self.flow.read_paused
            or cycle.response_started
            or (cycle.waiting_for_100_continue and not cycle.body)
        )

    def spare(self, now: float) -> tuple[Spare, float] | None:
        """Part of SweptConnection."""
        cycle = self.cycle
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            is_still = unsent == self._unsent and now - self._unsent_since >= _STILL_S
            return (Spare.STALLED, self._unsent_since) if is_still else None
        if self.transport.is_closing():
            return None
        if self._refused:
            return Spare.SILENT, self._since
        waited_s = now - self._since
        if not self.in_head:
            is_still = cycle.response_complete or (waited_s >= _STILL_S and not self._waits_for_us())
            return (Spare.STALLED, self._since) if is_still else None
        if cycle is not None:
            if not cycle.response_complete:
                return None
            if not self._counted:
                return Spare.IDLE, self._since
        return Spare.SILENT if waited_s >= _YOUNG_S else Spare.YOUNG, self._since

    def has_unread(self) -> bool:
        """Part of SweptConnection."""
        sock = self.transport.get_extra_info("socket")
        return fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)) != bytes(4)

    def shed(self) -> None:
        """Part of SweptConnection."""
        self._refused = True
        self._break_off()
        self.transport.abort()


def rendered(response: BytesResponse, *, bodiless: bool = False) -> bytes:
    """Return a response as bytes, after which the connection is closed."""
    lines = header_lines([*response.raw_headers, (b"connection", b"close")])
    return b"".join([STATUS_LINE[response.status_code], lines, b"\r\n", b"" if bodiless else response.body])
