"""uvicorn's HTTP protocol, with what a proxy needs of it beside ASGI.

- A WebSocket's handshake can become a tunnel (the extension `toril.tunnel`): answered with 101, the connection is bytes
  both ways, through the same `receive` and `send`.
- An answer can be cut off so that the client can tell (`toril.response.cut_off`). It can have its own reason phrase
  (`toril.reason`), and heads below 200 before it (`toril.response.early`), which an HTTP/1.0 client does not get.
- The scope has what `toril.gateway.exact` wants: the target as it was sent, and this cycle.
- Once the instance has begun to go, each answer closes its connection.
- A 304 may say how long what it stands for is, and an HTTP/1.0 client gets no chunks.
- A request with none or two `Host` is refused with 400, one in another transfer coding than `chunked` with 501.
- What cannot be parsed, such as a method that nobody knows, is answered in the words of the async proxy where there is
  one, and never into the middle of another answer.
- Another `Upgrade` than to a WebSocket is not taken up, and then the request's body is still its body; uvicorn's parser
  takes it for the other protocol.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any, cast

import httptools
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from websockets.exceptions import SecurityError

from toril.adapters.httptools_streams import keep_alive
from toril.bounded_requests import BoundedProtocol, rendered
from toril.core.errors import HeadTooLarge, TorilError
from toril.core.headers import Header, is_websocket_upgrade
from toril.core.inbound_head import head_fault
from toril.core.streaming import BODILESS, StreamHead
from toril.gateway.exact import CYCLE, EARLY, REASON, TARGET, origin_form
from toril.gateway.passthrough import CUT_OFF, TUNNEL
from toril.gateway.routing import Answer
from toril.gateway.sourced import own_error
from toril.lingering_close import LingeringSocketProtocol

Tunnels = Callable[[bytes], bool]
"""Whether a WebSocket to this raw target is tunnelled; the gateway serves the others itself."""
Leaving = Callable[[], bool]
"""Whether the instance has begun to go: whoever has a connection to it should have one to another instance next."""


class ProxiedProtocol(BoundedProtocol):
    """One HTTP connection. `tunnels` is asked for each WebSocket's handshake; `proxies`: there are upstreams; `leaving`
    is asked for each answer.
    """

    def __init__(self, *args: Any, tunnels: Tunnels, leaving: Leaving, proxies: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tunnels = tunnels
        self._leaving = leaving
        self._proxies = proxies

    def parser_failed(self, error: httptools.HttpParserError) -> None:
        """Called where the parser fails, or is ended by what is raised in `on_headers_complete`."""
        if isinstance(error.__context__, TorilError):
            self.refuse(error.__context__)
        else:
            self._refuse_as_wrong(in_body=not self.in_head)

    def _refuse_as_wrong(self, *, in_body: bool) -> None:
        if self._proxies:
            answer = _BAD_REQUEST
        else:
            text = b"Invalid HTTP request received."
            answer = rendered(Answer(400, b"text/plain; charset=utf-8", text, tuple(self.server_state.default_headers)))
        self.end_with(answer, in_body=in_body)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.head_ended()
        self.scope["method"] = self.parser.get_method().decode("ascii")
        version = self.parser.get_http_version()
        fault = head_fault(self.headers, version)
        if fault is not None:
            raise fault  # ends the parser; `parser_failed` has it from there
        if version != "1.1":
            self.scope["http_version"] = version
        if not self.parser.should_upgrade():  # else `data_received` learns of it once all of the head has come
            self._begin(tunnel=False)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_upgrade(self, rest: bytes) -> None:
        """Called where the head asks for another protocol."""
        if self.scope["method"] == "CONNECT":
            self._refuse_as_wrong(in_body=False)
        elif not is_websocket_upgrade(self.headers):
            self._begin_anew(rest)
        elif self._tunnels(self.url):
            self.aside = self._begin(tunnel=True).feed
            if rest:
                self.aside(rest)
        elif self.scope["method"] != "GET":  # a handshake is a GET (RFC 6455 4.1): this is a request like any other
            self._begin_anew(rest)
        else:
            self.handle_websocket_upgrade()
            self._take_back_if_unread()

    def _take_back_if_unread(self) -> None:
        """Refuse a handshake that the WebSocket library has not read: it says nothing then, and waits for ever."""
        socket_protocol = cast(LingeringSocketProtocol, self.transport.get_protocol())
        if socket_protocol.handshake_initiated:
            return
        self.connections.discard(socket_protocol)
        self.connections.add(self)
        self.transport.set_protocol(self)
        fault = socket_protocol.conn.handshake_exc
        if fault is not None and isinstance(fault.__cause__, SecurityError):  # its own limits are narrower than ours
            self.refuse(HeadTooLarge())
        else:
            self._refuse_as_wrong(in_body=False)

    def _begin_anew(self, rest: bytes) -> None:
        """Parse the request again, without what makes it ask for another protocol."""
        lines = [b"%b %b HTTP/%b\r\n" % (self.scope["method"].encode(), self.url, self.scope["http_version"].encode())]
        lines += [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.begin_anew(b"".join([*lines, b"\r\n"]), rest)

    def _begin(self, *, tunnel: bool) -> _Cycle:
        """Hand a request to the application: what uvicorn does here, with a cycle of ours."""
        parsed = httptools.parse_url(self.url)
        raw_path = parsed.path or b"/"
        path = raw_path.decode("ascii")
        scope = cast("dict[str, Any]", self.scope)
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["raw_path"] = raw_path
        scope["query_string"] = parsed.query or b""
        scope[TARGET] = origin_form(self.url)
        scope["extensions"] = {TUNNEL: {}} if tunnel else {}
        existing = self.cycle
        cycle = _Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self.scope["http_version"] != "1.0" and self.parser.should_keep_alive() and not tunnel,
            on_response=self.on_response_complete,
        )
        cycle.tunnel = tunnel
        cycle.leaving = self._leaving
        scope[CYCLE] = cycle
        self.cycle = cycle
        if existing is None or existing.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:  # pipelined: it has its turn
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        return cycle


_BAD_REQUEST = rendered(own_error(400))


class _Cycle(RequestResponseCycle):
    """One request and its answer."""

    tunnel = False
    leaving: Leaving
    _switched = False
    _until_close = False
    _given = False

    def feed(self, data: bytes) -> None:
        """What has come through a tunnel."""
        self.body += data
        if len(self.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.message_event.set()

    async def receive(self) -> ASGIReceiveEvent:
        """Part of ASGI. In a tunnel whatever came before the end is passed on, too."""
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
            self.transport.write(_rendered_head(head.status, head.reason, head.headers))

    def _switch(self, message: dict[str, Any]) -> None:
        if self.disconnected:
            return
        self.response_started = self._switched = True
        self.transport.write(_rendered_head(101, message[REASON], message["headers"]))
        keep_alive(self.transport)
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


# As uvicorn has them, which knows no others.
_REASONS = {status: line[len(b"HTTP/1.1 200 ") : -2] for status, line in STATUS_LINE.items()}


class _OtherReason:
    """A transport on which an answer that uvicorn begins has another reason phrase."""

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


def _rendered_head(status: int, reason: bytes, headers: Iterable[Header]) -> bytes:
    lines = [b"%b: %b\r\n" % pair for pair in headers]
    return b"".join([b"HTTP/1.1 %d %b\r\n" % (status, reason), *lines, b"\r\n"])
