"""Reads HTTP/1.1 answers from bytes with httptools' parser (llhttp, which Node.js uses).

Owns where an answer begins and ends, the bounds on its head and its body, and whether another answer may follow on the
same connection. Pure: it has no connection, no clock and no task; `connection.py` feeds it.
"""

from __future__ import annotations

import sys

import httptools
from msgspec import Struct

from toril.core.http.headers import ANSWER_HEAD_BYTES, CHUNK_LINE_BYTES, FRAMED_BY, Header, foreign_coding
from toril.core.http.streaming import BODILESS, StreamHead
from toril.core.outcome import FOREIGN_CODING, CutOff, coding_refused

# More pieces of a body than this in one read are joined: a piece of two bytes takes 43 of memory.
_MOST_PIECES = 16


class AnswerLimits(Struct, frozen=True, kw_only=True):
    """The limits on an answer.

    Args:
        max_head_bytes: an answer with more than this that is no body (heads, trailer, framing) is cut off.
        max_body_bytes: an answer with a longer body is cut off, or ends there.
        truncates: a longer body ends at `max_body_bytes`.
        streamed: heads below 200 are kept, too, and the answer may switch to another protocol (101).
    """

    max_head_bytes: int = ANSWER_HEAD_BYTES
    max_body_bytes: int = sys.maxsize
    truncates: bool = False
    streamed: bool = False


class AnswerReader:
    """Reads one answer after another; call `begin` before each.

    The methods named on_… are what httptools' parser calls.

    Attributes:
        began: some of the answer has come.
        ended: the whole answer has come, or as much of it as is taken.
        failure: why the answer cannot be read; None as long as it can. Its duration is not set.
        status: that of the head that is not below 200; 0 before that has come. `headers` and `reason` belong to it.
        heads: the heads of a streamed answer that have come and have not been taken, those below 200 included.
        pieces: what has come of the body and has not been taken; `unread_bytes` is their length.
        raw: the answer has switched protocols; all that comes is a piece of the body.
        reusable: another answer may follow on the connection.
        truncated: the body was longer than it may be, and `ended` where that limit is.
    """

    __slots__ = (
        "_coded", "_framing_bytes", "_head_only", "_in_head", "_joined", "_limits", "_line_bytes", "_max_body_bytes",
        "_max_head_bytes", "_parser", "began", "ended", "failure", "headers", "heads", "pieces", "raw", "reason",
        "reusable", "status", "truncated", "unread_bytes",
    )  # fmt: skip

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._limits = AnswerLimits()
        self._max_head_bytes = self._limits.max_head_bytes
        self._max_body_bytes = self._limits.max_body_bytes
        self._in_head = False
        # There is a header as long as Transfer-Encoding: to look at all of them takes 0.3 µs.
        self._coded = False
        self.headers: list[Header] = []
        self.reason = b""
        self.heads: list[StreamHead] = []
        self.pieces: list[bytes] = []
        self.unread_bytes = 0
        # So many of the pieces came with earlier reads.
        self._joined = 0
        self.failure: CutOff | None = None
        self.raw = self.truncated = False
        self.begin(self._limits, False)

    def begin(self, limits: AnswerLimits, head_only: bool) -> None:
        """Prepare for the next answer: the first one, or a later one if `reusable` is True and all has been taken.

        Args:
            limits: what it may be.
            head_only: the answer to a HEAD request has no body, whatever its headers say.
        """
        if limits is not self._limits:
            self._limits = limits
            self._max_head_bytes = limits.max_head_bytes
            self._max_body_bytes = limits.max_body_bytes
        self._head_only = head_only
        self.began = self.ended = self.reusable = False
        self.status = 0
        # What has come that is no body, all heads together: as its lines end, and as bytes whether or not they do.
        self._line_bytes = self._framing_bytes = 0

    def feed(self, data: bytes) -> None:
        """Parse received bytes."""
        self.began = True
        if self.raw:
            self._keep(data)
            return
        self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.raw = True
            self._keep(data[upgrade.args[0] :])
        except httptools.HttpParserError as exc:
            self.fail("ERR_HTTP", f"The answer is not HTTP/1.1: {exc}")
        if self._framing_bytes > self._max_head_bytes:
            if not self.raw:
                self._head_too_large()
        elif self._framing_bytes < 0:
            self._framing_bytes = 0  # what earlier chunks did not need is no room for what comes behind them
        if len(self.pieces) - self._joined > _MOST_PIECES:
            self.pieces[self._joined :] = [b"".join(self.pieces[self._joined :])]
        self._joined = len(self.pieces)
        if self._head_only and self.ended:
            # The parser does not know that there is no body, and waits for one.
            self._parser = httptools.HttpResponseParser(self)

    def end_of_input(self, *, clean: bool) -> None:
        """Record that the input has ended; `clean` means that the other side has closed the connection in order."""
        self.reusable = False
        if self.ended or not self.began:
            return
        if clean and self.status and (self.raw or not _is_framed(self.headers)):
            self.ended = True
        else:
            self.fail("ECONNRESET", "The connection was closed before the answer was whole")

    def fail(self, code: str, detail: str) -> None:
        """Record why the answer cannot be read further. The first reason counts; a whole answer stays whole."""
        self.reusable = False
        if not self.ended and self.failure is None:
            self.failure = CutOff(code, detail, 0.0)

    def take(self) -> bytes:
        """Return the part of the body that has come since the last call."""
        pieces = self.pieces
        self.pieces = []
        self.unread_bytes = self._joined = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _keep(self, data: bytes) -> None:
        if data:
            self.pieces.append(data)
            self.unread_bytes += len(data)

    def _head_too_large(self) -> None:
        self.fail("ERR_HEADERS_TOO_LARGE", f"The answer's headers are larger than {self._max_head_bytes} bytes")

    def on_message_begin(self) -> None:
        """Begin another head: that of the answer, or one below 200 before it."""
        if self.ended:  # a second answer to one request
            self.reusable = False
            return
        self._in_head = True
        self._coded = False
        self.reason = b""
        self.headers = []

    def on_status(self, status: bytes) -> None:
        """Add a part of the reason phrase."""
        self.reason += status
        self._line_bytes += len(status)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header. Those of a trailer are counted and dropped: they are no headers (RFC 9110 6.5.1)."""
        size = len(name)
        self._line_bytes += size + len(value) + 4
        if self._line_bytes > self._max_head_bytes:
            self._head_too_large()
        elif self._in_head:
            self.headers.append((name, value))
            if size == 17:
                self._coded = True

    def on_headers_complete(self) -> None:
        """Check a complete head."""
        self._in_head = False
        if self._line_bytes > self._max_head_bytes:
            self._head_too_large()
        if self.ended or self.failure is not None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100:
                self.fail("ERR_HTTP", f"The answer has the status {status}")
                return
            if status == 101:
                if not self._limits.streamed:
                    self.fail("ERR_HTTP", "The answer switches protocols")
                    return
                self.status = status
        else:
            self.status = status
            if self._head_only:
                self.ended = True
                self.reusable = self._parser.should_keep_alive()
            elif self._coded and status not in BODILESS and (coding := foreign_coding(self.headers)) is not None:
                self.fail(FOREIGN_CODING, coding_refused(coding))
                return
        if self._limits.streamed:
            self.heads.append(StreamHead(status, self.headers, self.reason))

    def on_chunk_header(self) -> None:
        """Take off the count what each chunk brings along."""
        self._framing_bytes -= CHUNK_LINE_BYTES

    def on_body(self, body: bytes) -> None:
        """Add a piece of the body."""
        self._framing_bytes -= len(body)
        if self.ended or self.failure is not None:
            self.reusable = False  # behind an answer that can have none
            return
        self.unread_bytes += len(body)
        if self.unread_bytes > self._max_body_bytes:
            self._body_too_large(body)
        else:
            self.pieces.append(body)

    def _body_too_large(self, body: bytes) -> None:
        if self._limits.truncates:
            self.pieces.append(body[: len(body) - (self.unread_bytes - self._max_body_bytes)])
            self.ended = self.truncated = True
        else:
            self.fail("ERR_BODY_TOO_LARGE", f"The answer's body is larger than {self._max_body_bytes} bytes")

    def on_message_complete(self) -> None:
        """End the answer, unless it is a head below 200."""
        if self.status and self.status != 101 and not self.ended and self.failure is None:
            self.ended = True
            self.reusable = self._parser.should_keep_alive()


def _is_framed(headers: list[Header]) -> bool:
    """Return True if the headers say where the body ends; otherwise it ends with its connection."""
    return any(name.lower() in FRAMED_BY for name, _ in headers)
