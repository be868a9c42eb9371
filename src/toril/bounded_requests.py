"""uvicorn's HTTP protocol, with bounds on what a caller may send before and around a request's body, and on the time
that it may take.

- A head, or what stands around the chunks of a body (sizes, extensions, trailers), is refused with 431 as soon as it is
  larger than `max_head_bytes`, whether its lines are complete or not.
- What comes behind the head is no header (RFC 9110 6.5.1): trailers are read and dropped.
- A head that does not come whole in time, or a body that stands still, is answered with 408. A connection without
  requests is closed. `ConnectionSweep` looks; there are no timers for each request.
- Pipelined requests are parsed one at a time, when the answer before has gone out.
- Where file descriptors run out, connections that can be spared are closed.

None of this holds for WebSockets and tunnels: they have begun when their handshake has been answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from toril.connection_sweep import ConnectionSweep, Spare, Watched
from toril.core.errors import HeadTooLarge, RequestTimeout, TooManyConnections, TorilError
from toril.gateway.routing import Answer
from toril.gathered_writes import GatheringProtocol
from toril.peer_address import unmapped

Refusal = Callable[[str, bytes, TorilError], Answer]
"""The answer to a request with this method and target that is refused before the application has it."""

_END = b"\r\n\r\n"
# A chunk's size, and the ends of two lines: what may stand around each chunk without being counted.
_PER_CHUNK = 32
# For how long what still comes is read and dropped: a connection that is closed before is reset, and the answer lost.
_LINGER_S = 2.0
_LINGER_BYTES = 2**20
# Younger connections without a head are likely to have one under way.
_YOUNG_S = 2.0
# After this, a body of which nothing comes and an answer of which nothing is taken stand still.
_STILL_S = 5.0


class BoundedProtocol(GatheringProtocol, Watched):
    """One HTTP connection.

    What comes is given to the parser in pieces that end where a message may end: at an empty line, or at the end of a
    body of known length. So a head begins where a piece begins, and its bytes can be counted.
    """

    def __init__(self, *args: Any, sweep: ConnectionSweep, refusal: Refusal, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sweep = sweep
        self.number = next(sweep.numbers)
        self._most = sweep.policy.max_head_bytes
        self._refusal = refusal
        # When the wait began that goes on now, by the sweep's clock.
        self._since = sweep.now
        self.in_head = True
        self._counted = 0
        # How much of a body of known length is to come. One of unknown length is chunked.
        self._left = 0
        self._is_chunked = False
        self._length = 0
        self._trailer = False
        # The last bytes of a piece that was not whole: an empty line may be split.
        self._tail = b""
        # What has come behind a request that has yet to be answered, from `_held_at` on.
        self._held = b""
        self._held_at = 0
        self._refused = False
        # Where what comes goes instead of to the parser, once that has done its part.
        self.aside: Callable[[bytes], None] | None = None
        # How much of an answer waits for the caller to take it, and since when it is no less.
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
        super().connection_lost(exc)
        self.aside = None  # it refers to this: without it the memory is free now, and not when it is collected

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if self.aside is not None:
            self.aside(data)
            return
        if self._held:
            data = self._held[self._held_at :] + data
            self._held = b""
        self._walk(data, 0)

    def _drop(self, data: bytes) -> None:
        """Read what comes behind a refusal, for a while."""
        self._counted += len(data)
        if self._counted > _LINGER_BYTES:
            self.transport.abort()

    def _walk(self, data: bytes, at: int) -> None:
        """Give the parser all of `data` from `at` on, as far as it is its turn."""
        while at < len(data):
            cycle = self.cycle
            if self.in_head:
                if cycle is not None and not cycle.response_complete:
                    self._hold(data, at)
                    return
                if not self._counted:
                    self._since = self._sweep.now
            elif not cycle.response_complete:
                self._since = self._sweep.now
            end = self._end_of_piece(data, at)
            piece = data if end - at == len(data) else data[at:end]
            at = end
            try:
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

    def _end_of_piece(self, data: bytes, at: int) -> int:
        """Return where the piece that begins at `at` ends."""
        if self._left and not self.in_head:
            return min(at + self._left, len(data))
        tail = self._tail
        if tail:
            split = (tail + data[at : at + 3]).find(_END)
            if split >= 0:
                self._tail = b""
                return at + split + len(_END) - len(tail)
        found = data.find(_END, at)
        if found >= 0:
            self._tail = b""
            return found + len(_END)
        self._tail = (tail + data[max(at, len(data) - 3) :])[-3:]
        return len(data)

    def _feed(self, piece: bytes) -> None:
        """Give the parser one piece, if there is still room for it."""
        if self.in_head:
            room = self._most - self._counted
            if len(piece) > room:
                if room:
                    self.parser.feed_data(piece[:room])  # the answer depends on the request line
                self.refuse(HeadTooLarge())
                return
            self._counted += len(piece)
            self.parser.feed_data(piece)
        elif self._left:
            self._left -= len(piece)
            self.parser.feed_data(piece)
        else:
            self._feed_chunks(piece)

    def _feed_chunks(self, piece: bytes) -> None:
        """Give the parser a piece of a chunked body; `on_body` takes off the count what may be there."""
        self.parser.feed_data(piece)
        self._counted = max(0, self._counted + len(piece))
        if self._counted > self._most:
            self.refuse(HeadTooLarge(), in_body=True)
        elif self.in_head:  # it was the last
            self._counted = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
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
        """To be called where the parser has come to the end of a head."""
        self.in_head = False
        self._counted = 0
        self._left, self._length = self._length, 0
        self._is_chunked = not self._left
        self._since = self._sweep.now

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if self._is_chunked:
            self._counted -= len(body) + _PER_CHUNK
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.in_head = True
        if self._trailer:
            # One that says `Connection: close` has closed the parser, and no client's next request may fall into that.
            self._trailer = False
            self._new_parser()
        super().on_message_complete()

    def begin_anew(self, head: bytes, rest: bytes) -> None:
        """Parse a head that has been counted once more, as it stands here; `rest` came behind it."""
        self._new_parser()
        self.in_head = True
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserError as exc:
            self.parser_failed(exc)
            return
        self._walk(rest, 0)

    def _new_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def parser_failed(self, error: httptools.HttpParserError) -> None:
        """Called where what comes cannot be parsed."""
        raise NotImplementedError

    def on_upgrade(self, rest: bytes) -> None:
        """Called where the head asks for another protocol, with what has come behind it."""
        raise NotImplementedError

    def on_response_complete(self) -> None:
        """Called by a cycle. uvicorn would start a timer here."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._since = self._sweep.now
        self.url = b""
        self.flow.resume_reading()
        if self._held:
            held, self._held = self._held, b""
            self._walk(held, self._held_at)

    def refuse(self, error: TorilError, *, in_body: bool = False) -> None:
        """Answer the request that is coming with an error, if it has not been answered, and end the connection."""
        method = self.parser.get_method().decode("ascii") if self.scope is not None and self.url else ""
        answer = self._refusal(method, self.url if method else b"", error)
        self.end_with(rendered(answer, bodiless=method == "HEAD"), in_body=in_body)

    def end_with(self, answer: bytes, *, in_body: bool) -> None:
        """Send this as the last answer, unless there is one already, and end the connection.

        Args:
            in_body: what is wrong is behind the head of the newest request, not in one that has yet to begin.
        """
        cycle = self.cycle
        is_answered = cycle is not None and (in_body or not cycle.response_complete) and cycle.response_started
        self._refused = True
        self.aside = self._drop
        self._counted = 0
        self._since = self._sweep.now
        # What was kept of the head is dropped at once: up to 64 KB of short lines are 2 MB here.
        self.scope = None  # type: ignore[assignment]
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
        """Tell the application that the caller is gone, if it is at work for him."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()

    def shutdown(self) -> None:
        """Called when the server ends."""
        if self._refused:
            self.transport.close()
        else:
            super().shutdown()

    # What the sweep asks

    def check(self, now: float, slack_s: float) -> None:
        """Part of Watched."""
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
            else:  # nothing has been asked, or it has been answered
                self.transport.close()

    def _limit_s(self) -> float | None:
        """Return how long the wait may take that goes on now; None where the caller is not to blame for it."""
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
        """True while the caller of a request whose body has not come whole has a reason to send nothing."""
        cycle = cast(Any, self.cycle)
        return bool(
            getattr(cycle, "tunnel", False)
            or self.flow.read_paused
            or cycle.response_started
            or (cycle.waiting_for_100_continue and not cycle.body)
        )

    def spare(self, now: float) -> tuple[Spare, float] | None:
        """Part of Watched."""
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

    def shed(self) -> None:
        """Part of Watched."""
        self._refused = True
        self._break_off()
        self.transport.abort()


def rendered(answer: Answer, *, bodiless: bool = False) -> bytes:
    """Return an answer as bytes, behind which the connection is closed."""
    length = b"%d" % len(answer.body)
    headers = [(b"content-type", answer.content_type), (b"content-length", length), (b"connection", b"close")]
    lines = [b"%b: %b\r\n" % pair for pair in [*headers, *answer.headers]]
    return b"".join([STATUS_LINE[answer.status], *lines, b"\r\n", b"" if bodiless else answer.body])
