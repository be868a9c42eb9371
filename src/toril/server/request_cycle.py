"""One request and its answer: uvicorn's cycle, with what a proxy needs beyond ASGI, and one step for a whole answer.

A whole answer (`answer`) is checked and framed as uvicorn does it, but in one write and without ASGI's two messages.
benchmarks/README.md says what that saves.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, cast

from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent, HTTPScope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from toril.core.http.headers import IN_VALUES, TOKEN, Header, header_lines
from toril.core.http.streaming import BODILESS, StreamHead
from toril.http_client.tcp_keepalive import detect_dead_peer
from toril.web.raw_target import CUT_OFF, EARLY, REASON

Leaving = Callable[[], bool]
"""True once the instance has begun to shut down: callers should connect to another instance next."""


_NO_LENGTH = (None, b"0")
"""What stands for a missing `content-length`, by whether the status is 204."""
_OVER = cast(HTTPScope, {"type": "http", "method": "GET", "http_version": "1.1"})
"""Stands for the scope of a request that has ended."""


def _nothing() -> None:
    pass


_lines = lru_cache(maxsize=8)(header_lines)
"""The lines of headers that are the same in many answers, given as a tuple."""


@lru_cache(maxsize=64)
def _template(names: tuple[bytes, ...]) -> tuple[bytes | None, int | None]:
    """Return the lines of headers with these names, to be filled with their values, and the place of the length.

    There are no lines where uvicorn has to see the headers. Answers of one kind have the same names, and these are
    looked at once.
    """
    if b"connection" in names or b"".join(names).translate(None, TOKEN) or names.count(b"content-length") > 1:
        return None, None
    lines = b"".join([b"%b: %%b\r\n" % name.replace(b"%", b"%%") for name in names])
    return lines, names.index(b"content-length") if b"content-length" in names else None


@lru_cache(maxsize=64)
def _type_line(content_type: bytes) -> bytes | None:
    """Return the line of a content type; None where that is no header value."""
    return None if HEADER_VALUE_RE.search(content_type) else b"content-type: %b\r\n" % content_type


class Signal:
    """What uvicorn needs of an `asyncio.Event`. Most requests never wait for theirs, and an event costs 0.5 µs."""

    _is_set = False
    _event: asyncio.Event | None = None

    def set(self) -> None:
        """As `asyncio.Event.set`."""
        self._is_set = True
        if self._event is not None:
            self._event.set()

    def clear(self) -> None:
        """As `asyncio.Event.clear`."""
        self._is_set = False
        if self._event is not None:
            self._event.clear()

    async def wait(self) -> None:
        """As `asyncio.Event.wait`."""
        if self._is_set:
            return
        if self._event is None:
            self._event = asyncio.Event()
        await self._event.wait()


class RequestCycle(RequestResponseCycle):
    """One request and its answer.

    Args:
        protocol: the connection.
        keep_alive: whether another request may follow.
        tunnel: whether this is a handshake that may become a tunnel.
        leaving: asked for each answer.
    """

    # uvicorn sets these in each cycle.
    access_log = False
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding: bool | None = None
    expected_content_length = 0
    task: asyncio.Task[None] | None = None
    _switched = False
    _until_close = False
    _given = False

    def __init__(self, protocol: HttpToolsProtocol, *, keep_alive: bool, tunnel: bool, leaving: Leaving) -> None:
        self.scope = protocol.scope
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.default_headers = protocol.server_state.default_headers
        self.message_event = Signal()  # type: ignore[assignment] # all that uvicorn needs of an event
        self.on_response = protocol.on_response_complete
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = protocol.expect_100_continue
        self.body = bytearray()
        self.tunnel = tunnel
        self.leaving = leaving
        self._tasks = protocol.tasks
        self._tell_gone: Callable[[], None] = _nothing

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Run the application, and answer for it where it fails, as uvicorn does.

        uvicorn has a callback for the end of the task, which takes another turn of the event loop.
        """
        try:
            await app(self.scope, self.receive, self.send)
            if not self.response_complete and not self.disconnected:
                self.logger.error("ASGI callable returned without completing response.")
                await self._fail()
        except BaseException as exc:
            self.logger.error("Exception in ASGI application\n", exc_info=exc)
            await self._fail()
        finally:
            self.on_response = self._tell_gone = _nothing
            if self.task is not None:
                self._tasks.discard(self.task)
                self.task = None
            # Without these circles the request is freed now, and not by the garbage collector (a tenth of its cost).
            self.scope = _OVER

    async def _fail(self) -> None:
        if self.response_started:
            self.transport.close()
        else:
            await self.send_500_response()

    def answer(self, status: int, headers: Sequence[Header], body: bytes) -> bool:
        """Send a whole answer at once; return False, and send nothing, where that has to be done step by step.

        Args:
            status: not below 200.
            headers: with lower-case names.
            body: as long as `content-length` says.
        """
        if self._needs_steps():
            return False
        names, values = zip(*headers, strict=False) if headers else ((), ())
        template, sized_at = _template(names)
        length = _NO_LENGTH[status == 204] if sized_at is None else values[sized_at]
        if template is None or length != b"%d" % len(body) or b"".join(values).translate(None, IN_VALUES):
            return False
        own = STATUS_LINE[status], _lines(tuple(self.default_headers)), template % values
        self._end(b"%b%b%b\r\n%b" % (*own, body if self.scope["method"] != "HEAD" else b""))
        return True

    def answer_typed(self, status: int, content_type: bytes, body: bytes) -> bool:
        """Send a whole answer as `answer`, with no headers but its type and its length."""
        type_line = _type_line(content_type)
        if type_line is None or self._needs_steps():
            return False
        own = STATUS_LINE[status], _lines(tuple(self.default_headers)), type_line, len(body)
        self._end(b"%b%b%bcontent-length: %d\r\n\r\n%b" % (*own, body if self.scope["method"] != "HEAD" else b""))
        return True

    def _needs_steps(self) -> bool:
        return (
            self.response_started
            or self.disconnected
            or self.tunnel
            or not self.keep_alive
            or self.flow.write_paused
            or self.leaving()
        )

    def _end(self, answer: bytes) -> None:
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write_whole(answer)  # type: ignore[attr-defined] # it is a GatheringTransport
        self.message_event.set()
        self.on_response()

    def take(self, body: bytes) -> None:
        """Take the whole body, which has come with the head."""
        self.body = body  # type: ignore[assignment] # nothing more is added to it
        self.more_body = False
        self.message_event.set()

    def feed(self, data: bytes) -> None:
        """Add what has come through a tunnel."""
        self.body += data
        if len(self.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.message_event.set()

    def tell_when_gone(self, receive: Any, tell: Callable[[], None]) -> bool:
        """Call `tell` when the client hangs up before the answer has ended; False where that has to be received.

        Args:
            receive: what the application would receive with; middleware may stand between.
            tell: what to call.
        """
        if receive != self.receive or self.disconnected or self.tunnel:
            return False
        self._tell_gone = tell
        return True

    def gone(self) -> None:
        """Note that the client has hung up, or that its connection is ended."""
        self.disconnected = True
        if not self.response_complete:
            self._tell_gone()

    def whole_body(self) -> bytes | None:
        """Return the whole body, where all of it has come and none has been received; what `receive` would, at once."""
        if self.more_body or self._given or self.disconnected or self.response_complete or self.tunnel:
            return None
        if self.waiting_for_100_continue:
            return None
        body, self.body = bytes(self.body), bytearray()
        self._given = True
        self.message_event.clear()
        if self.flow.read_paused:
            self.flow.resume_reading()
        return body

    async def receive(self) -> ASGIReceiveEvent:
        """Part of ASGI. In a tunnel all bytes that came before the end are given out before the disconnect."""
        if not self.tunnel:
            return await super().receive()
        while True:
            if self._switched and self.body:
                body, self.body = bytes(self.body), bytearray()
                self.flow.resume_reading()
                return {"type": "http.request", "body": body, "more_body": True}
            if self.disconnected or self.response_complete:
                return {"type": "http.disconnect"}
            if not self._given:
                self._given = True
                return {"type": "http.request", "body": b"", "more_body": False}
            self.message_event.clear()
            await self.message_event.wait()

    async def send(self, message: ASGISendEvent) -> None:
        """Part of ASGI."""
        kind: str = message["type"]
        if kind == "http.response.start":
            await self._start(cast("dict[str, Any]", message))
        elif kind == CUT_OFF:
            self._cut_off()
        elif kind == EARLY:
            await self._pass_early(cast("dict[str, Any]", message)["head"])
        elif self._switched:
            await self._pass_on(cast("dict[str, Any]", message))
        else:
            if self._until_close and not message.get("more_body", False):
                self.expected_content_length = len(cast("dict[str, Any]", message).get("body", b""))
            await super().send(message)

    async def _start(self, message: dict[str, Any]) -> None:
        status, sized = message["status"], False
        for name, _ in message.get("headers", ()):
            if name.lower() == b"content-length":
                sized = True
        if status == 101 and self.tunnel:
            self._switch(message)
            return
        if self.leaving():
            self.keep_alive = False  # uvicorn says so, too
        if self.scope["http_version"] == "1.0" and not sized and status not in BODILESS:
            self._until_close = True
            self.chunked_encoding = False
            self.expected_content_length = sys.maxsize
        reason = message.get(REASON)
        if reason is not None and reason != _REASONS.get(status):
            self.transport = cast(asyncio.Transport, _OtherReason(self.transport, status, reason))
        await super().send(cast(ASGISendEvent, message))
        if isinstance(self.transport, _OtherReason):
            self.transport = self.transport.transport
        if status in BODILESS:
            self.expected_content_length = 0

    async def _pass_early(self, head: StreamHead) -> None:
        if self.scope["http_version"] != "1.1" or self.response_started:
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.disconnected:
            self.transport.write(rendered_head(head.status, head.reason, head.headers))

    def _switch(self, message: dict[str, Any]) -> None:
        if self.disconnected:
            return
        self.response_started = self._switched = True
        self.transport.write(rendered_head(101, message[REASON], message["headers"]))
        detect_dead_peer(self.transport)
        self.message_event.set()

    async def _pass_on(self, message: dict[str, Any]) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["body"]:
            self.transport.write(message["body"])
        if not message["more_body"]:
            self.response_complete = True
            self.message_event.set()
            self.transport.close()
            self.on_response()

    def _cut_off(self) -> None:
        if not self.disconnected:
            self.disconnected = True
            if self._until_close:  # the end of the connection would be the end of the answer: reset it
                sock = self.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.transport.abort()
            else:
                self.transport.close()


# uvicorn sends these and no others.
_REASONS = {status: line[len(b"HTTP/1.1 200 ") : -2] for status, line in STATUS_LINE.items()}


class _OtherReason:
    """A transport that puts another reason phrase into the head that uvicorn writes."""

    def __init__(self, transport: asyncio.Transport, status: int, reason: bytes) -> None:
        self.transport = transport
        self._before = STATUS_LINE[status]
        self._line = b"HTTP/1.1 %d %b\r\n" % (status, reason)

    def write(self, data: bytes) -> None:
        """Part of asyncio.Transport."""
        is_head = data.startswith(self._before)
        self.transport.write(self._line + data[len(self._before) :] if is_head else data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


def rendered_head(status: int, reason: bytes, headers: Iterable[Header]) -> bytes:
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, header_lines(headers))
