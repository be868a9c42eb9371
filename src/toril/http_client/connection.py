"""One outbound connection: carries one exchange after the other, and reads answers with an `AnswerReader`.

Owns the transport, back pressure both ways, and the times that an exchange may take. An exchange is either collected
(`collect`: one future, one timer, for answers that are read whole) or streamed (`exchange.py`, by `begin`, `write` and
`news`). It raises nothing for what the other side does.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import AsyncGenerator
from time import perf_counter  # the loop's own clock may stand still for a millisecond
from typing import cast

from toril.core.blob import StreamedBody
from toril.core.destination import OutboundRequest
from toril.core.errors import StoreError
from toril.core.outcome import BODY_UNREADABLE, ERR_TLS, Answered, CutOff, TimedOut
from toril.http_client.answer_reader import AnswerLimits, AnswerReader
from toril.http_client.tcp_keepalive import detect_dead_peer
from toril.http_client.tls_contexts import failure_words

_HIGH_WATER_BYTES = 256 * 1024
_FLUSH_S = 5.0


class HttpConnection(asyncio.Protocol):
    """A connection to an origin.

    Attributes:
        reader: reads the answers.
        made_at: when it was made, by the loop's clock, as `idle_since` and `usable_until`.
        exchanges: how many exchanges it has carried to their end.
        idle_since: since when it carries none.
        usable_until: until when another may begin.
    """

    __slots__ = (
        "_collects", "_detects_dead_peer", "_due", "_in_use", "_looks_at", "_loop", "_moved_at", "_patience_s",
        "_paused", "_poll", "_timer", "_transport", "_waiter", "_woken_at", "_writable", "_written", "exchanges",
        "idle_since", "made_at", "reader", "usable_until",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._poll: select.poll | None = None
        self.reader = AnswerReader()
        self.made_at = loop.time()
        self.exchanges = 0
        self.idle_since = 0.0
        self.usable_until = 0.0
        self._in_use = False
        # Only the end of the answer is news.
        self._collects = False
        self._waiter: asyncio.Future[bool] | None = None
        # Looks whether the time of an exchange is over, which is `_due` (`perf_counter`) where it is collected, and a
        # time without progress where it is streamed.
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0.0
        self._due = 0.0
        self._patience_s: float | None = None
        self._woken_at = 0.0
        self._writable = asyncio.Event()
        self._writable.set()
        # The request has been written whole.
        self._written = False
        self._paused = False
        self._detects_dead_peer = False
        # When something last moved, where an exchange is streamed.
        self._moved_at = 0.0

    @property
    def is_open(self) -> bool:
        """True while another exchange can be tried."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def in_use(self) -> bool:
        """True while an exchange is under way."""
        return self._in_use

    def is_silent(self) -> bool:
        """Return True if nothing has come while it was idle, not even its end, also where the loop has not seen it."""
        transport, poll = self._transport, self._poll
        if transport is None or transport.is_closing():
            return False
        if poll is None:
            poll = self._poll = select.poll()
            poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)  # 0.4 µs

    def begin(self, data: bytes, limits: AnswerLimits, head_only: bool, written: bool) -> None:
        """Begin an exchange: write `data`, which is a whole request where `written` says so, or its head."""
        self.reader.begin(limits, head_only)
        self._in_use = True
        self._written = written
        if self._transport is not None:  # else it was lost before this exchange had it
            self._transport.write(data)

    async def collect(
        self, data: bytes, request: OutboundRequest, limits: AnswerLimits, started: float
    ) -> Answered | TimedOut | CutOff | None:
        """Run one exchange to its end; return None if the connection is lost before any part of the answer has come.

        Args:
            data: the request, without a body that is streamed.
            request: what it was made of.
            limits: what the answer may be.
            started: when the request began (`perf_counter`).
        """
        self.begin(data, limits, request.head_only, request.stream is None)
        if self._transport is None:
            return None
        waiter = self._waiter = self._loop.create_future()
        self._collects = True
        self._due = started + request.timeout_s
        left_s = self._due - perf_counter()
        expires_at = self._loop.time() + left_s
        self._look_by(expires_at)
        in_time = False
        try:
            if request.stream is not None:
                await self._send(request.stream, left_s)
            in_time = await waiter
        finally:
            self._waiter = None
            self._collects = False
            if not in_time:  # what comes now must not be taken for another answer
                self.abort()
        if not in_time:
            return TimedOut("answer", perf_counter() - started)
        duration_s = self._woken_at - started
        reader = self.reader
        if reader.failure is not None:
            reader.failure.duration_s = duration_s
            return reader.failure
        if not reader.ended:
            return None
        reason = reader.reason.decode("latin-1")
        return Answered(reader.status, reason, reader.headers, reader.take(), duration_s, reader.truncated)

    async def _send(self, body: StreamedBody, patience_s: float) -> None:
        """Send a body piece by piece, as fast as the receiver takes it and until it answers."""
        left = body.size_bytes
        pieces = body.open()
        try:
            async with asyncio.timeout(patience_s):
                async for piece in pieces:
                    left -= len(piece)
                    if left < 0:
                        break
                    if not await self.write(piece):
                        return
        except TimeoutError:
            return  # the timer ends the exchange
        except StoreError as exc:
            self._break_off(BODY_UNREADABLE, exc.message)
            return
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()  # now, and not when it is collected: it may hold a file or a connection
        if left:
            self._break_off(BODY_UNREADABLE, "The request's body is not as long as it was said to be")
        self._written = not left

    def _break_off(self, code: str, detail: str) -> None:
        self.reader.fail(code, detail)
        self._drop()

    async def write(self, data: bytes) -> bool:
        """Write bytes, and wait until more may follow; return False if the other side accepts no more."""
        reader = self.reader
        if not self.is_open or (reader.ended and not reader.raw):
            return False
        assert self._transport is not None  # noqa: S101 - it is open
        self._transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()
        self._moved_at = self._loop.time()
        return self.is_open

    def finish_request(self, last: bytes) -> None:
        """Write the last bytes of a streamed request."""
        if last and self.is_open and not self.reader.ended:
            assert self._transport is not None  # noqa: S101 - it is open
            self._transport.write(last)
        self._written = True
        self._moved_at = self._loop.time()

    def moved(self, *, ago_s: float = 0.0) -> None:
        """Restart the time limit on an exchange without progress, from now or from some seconds ago."""
        self._moved_at = self._loop.time() - ago_s

    def watch_peer(self) -> None:
        """Find out within a minute that the other machine is gone."""
        if not self._detects_dead_peer and self._transport is not None:
            self._detects_dead_peer = True
            detect_dead_peer(self._transport)

    def resume_reading(self) -> None:
        """Resume reading if it was paused because too much was unread."""
        if self._paused:
            self._paused = False
            if self._transport is not None:
                self._transport.resume_reading()

    def news(self, patience_s: float | None) -> asyncio.Future[bool]:
        """Return a future that ends when something has changed, with False after `patience_s` without a change.

        Time counts only while the whole request is written, or the other side accepts no more of it.
        """
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiter, self._patience_s = waiter, patience_s
        if patience_s is not None:
            self._look_by(self._moved_at + patience_s)
        return waiter

    def _look_by(self, moment: float) -> None:
        """Look then, or before, whether time is over.

        The timer outlasts a wait: one for each of them would cost as much as the wait.
        """
        if self._timer is not None:
            if moment >= self._looks_at:
                return
            self._timer.cancel()
        self._looks_at = moment
        self._timer = self._loop.call_later(max(moment - self._loop.time(), 0.0), self._look)

    def _look_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if not self._collects:
            self._check_progress(waiter)
        elif (left_s := self._due - perf_counter()) > 0:
            self._look_by(self._loop.time() + left_s)
        else:
            waiter.set_result(False)
            self.abort()

    def _check_progress(self, waiter: asyncio.Future[bool]) -> None:
        """End the wait, unless the other side waits for the caller, or the body makes progress."""
        patience_s = self._patience_s
        if patience_s is None:
            return
        now = self._loop.time()
        if not self._written and self._writable.is_set():
            self._moved_at = now
        if self._moved_at + patience_s > now:
            self._look_by(self._moved_at + patience_s)
        else:
            waiter.set_result(False)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            self._woken_at = perf_counter()
            waiter.set_result(True)

    def release(self) -> bool:
        """End the exchange; return True if the connection may be used again while it is open."""
        self._in_use = False
        reader, transport = self.reader, self._transport
        if not (reader.reusable and self._written) or reader.pieces:
            return False
        # A receiver that has answered without having taken the whole request may never take the rest.
        return transport is None or not transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close at once."""
        self._in_use = False
        self._drop()

    def _drop(self) -> None:
        self._look_no_more()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._writable.set()
        self._wake()

    def close(self) -> None:
        """Close after everything written has been sent, within a few seconds."""
        self._in_use = False
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(_FLUSH_S, self._transport.abort)
        self._look_no_more()
        self._writable.set()
        self._wake()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._transport = None
        self._look_no_more()
        self._writable.set()
        if self._in_use:
            if isinstance(exc, ssl.SSLError) and "ALERT" in (exc.reason or ""):
                # With TLS 1.3 a server judges a client certificate when the handshake is over for the client.
                self.reader.fail(ERR_TLS, failure_words(exc, "the server"))
            self.reader.end_of_input(clean=exc is None)
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
        reader = self.reader
        if not self._in_use or (reader.ended and not reader.raw):
            reader.reusable = False  # not asked for
            self.abort()
            return
        reader.feed(data)
        if reader.failure is not None:
            self._drop()
        elif self._collects:
            if reader.ended:
                if not self._written:
                    self._writable.set()  # the rest of the request is not sent
                self._wake()
        else:
            if reader.unread_bytes > _HIGH_WATER_BYTES and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
            self._wake()
