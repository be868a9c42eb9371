"""uvicorn's HTTP protocol, with what a proxy needs beyond ASGI.

- A WebSocket's handshake can become a tunnel (the extension `toril.tunnel`): after a 101 the connection carries bytes
  both ways, through the same `receive` and `send`.
- An answer can be cut off so that the client can tell (`toril.response.cut_off`). It can have a reason phrase
  (`toril.reason`), and heads below 200 before it (`toril.response.early`), which an HTTP/1.0 client does not get.
- The scope has what `toril.web.raw_target` needs: the target as it was sent, and this cycle.
- Once the instance has begun to shut down, each answer closes its connection.
- A 304 may have the `Content-Length` of the body that it stands for, and an HTTP/1.0 client gets no chunks.
- A request without `Host`, or with two, is refused with 400, one in a transfer coding other than `chunked` with 501.
- Bytes that cannot be parsed, such as an unknown method, are answered as the async proxy answers where there is one,
  and never in the middle of another answer.
- An `Upgrade` to anything but a WebSocket is ignored, and the request keeps its body; uvicorn's parser would take the
  body for the other protocol.

docs/decisions/0010-uvicorn-protocols.md lists the parts of uvicorn that are used here.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn._types import HTTPScope
from websockets.exceptions import SecurityError

from toril.core.errors import HeadTooLarge, TorilError
from toril.core.http.headers import is_websocket_upgrade
from toril.server.bounded_requests import BoundedProtocol, rendered
from toril.server.inbound_head import head_fault
from toril.server.known_heads import KnownHeads
from toril.server.lingering_close import LingeringSocketProtocol
from toril.server.request_cycle import Leaving, RequestCycle
from toril.web.raw_target import CYCLE, TARGET, TUNNEL, origin_form
from toril.web.responses import BytesResponse
from toril.web.sourced import own_error

Tunnels = Callable[[bytes], bool]
"""True if a WebSocket to this raw target is tunnelled; the gateway serves the others itself."""

_Read = tuple[str, bytes, bytes, bytes]
"""The decoded path, the raw path, the query, and the target in origin form."""
_KEPT_BYTES = 256
"""A longer target is not kept beyond its request: there may be many connections."""


class ProxiedProtocol(BoundedProtocol):
    """One HTTP connection.

    Args:
        tunnels: asked for each WebSocket's handshake.
        leaving: asked for each answer.
        heads: those of all connections that have come before.
        proxies: there are upstreams, so bytes that cannot be parsed are answered as the async proxy answers.
    """

    def __init__(
        self,
        *args: Any,
        tunnels: Tunnels,
        leaving: Leaving,
        heads: KnownHeads,
        proxies: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._tunnels = tunnels
        self._leaving = leaving
        self._heads = heads
        # Of the newest header lines that were parsed: those that come twice are kept.
        self._lines_hash = 0
        # The newest request line that was read without the parser, and its method and target.
        self._line: bytes | None = None
        self._line_says = ("", b"")
        self._proxies = proxies
        self._method = self._version = ""
        # The newest short target, and what was read from it: a caller that adds jobs sends the same one again.
        self._read_from: bytes | None = None
        self._read: _Read = ("", b"", b"", b"")

    def take_known(self, data: bytes) -> bool:
        """Part of BoundedProtocol."""
        line_end = data.find(b"\r\n")
        head_end = data.find(_HEAD_END, line_end)
        if head_end < 0 or (known := self._heads.find(data[line_end:head_end])) is None:
            return False
        body_at = head_end + len(_HEAD_END)
        if len(data) - body_at != known.length or body_at > self.most_head_bytes:
            return False
        line = data[:line_end]
        if line != self._line and not self._read_line(line):
            return False
        self._method, self.url = self._line_says
        self._version = "1.1"
        self.headers = known.headers.copy()
        self.expect_100_continue = False
        cycle = self._new_cycle(keep_alive=True, tunnel=False)
        cycle.take(data[body_at:])
        self._start(cycle)
        return True

    def _read_line(self, line: bytes) -> bool:
        """Read a request line; return False where only the parser can tell what it means."""
        match = _PLAIN_LINE.match(line)
        if match is None:
            return False
        self._line_says = match[1].decode(), match[2]
        self._line = line if len(line) <= _KEPT_BYTES else None
        return True

    def learn(self, data: bytes) -> None:
        """Part of BoundedProtocol."""
        line_end = data.find(b"\r\n")
        head_end = data.find(_HEAD_END, line_end)
        cycle = self.cycle
        if head_end < 0 or cycle is None or cycle.response_complete or self._version != "1.1":
            return
        lines = data[line_end:head_end]
        before, self._lines_hash = self._lines_hash, hash(lines)
        if before == self._lines_hash and data[:line_end] == b"%b %b HTTP/1.1" % (self._method.encode(), self.url):
            self._heads.keep(lines, self.headers)

    def parser_failed(self, error: httptools.HttpParserError) -> None:
        """Answer bytes that cannot be parsed, or a head that `on_headers_complete` has refused by raising."""
        if isinstance(error.__context__, TorilError):
            self.refuse(error.__context__)
        else:
            self._refuse_as_wrong(in_body=not self.in_head)

    def _refuse_as_wrong(self, *, in_body: bool) -> None:
        if self._proxies:
            answer = _BAD_REQUEST
        else:
            text = b"Invalid HTTP request received."
            headers = self.server_state.default_headers
            answer = rendered(BytesResponse(text, 400, b"text/plain; charset=utf-8", headers))
        self.end_with(answer, in_body=in_body)

    def on_message_begin(self) -> None:
        """Begin a head, as uvicorn does; the scope is made when all that it holds is known."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Hand the request to the application, unless its head has a fault or asks for another protocol."""
        self.head_ended()
        self._method = self.parser.get_method().decode("ascii")
        self._version = self.parser.get_http_version()
        fault = head_fault(self.headers, self._version)
        if fault is not None:
            raise fault  # ends the parser; `parser_failed` answers
        if not self.parser.should_upgrade():  # else the parser raises HttpParserUpgrade after the head
            self._begin(tunnel=False)

    def on_upgrade(self, rest: bytes) -> None:
        """Begin a tunnel or a WebSocket, or ignore the `Upgrade`."""
        if self._method == "CONNECT":
            self._refuse_as_wrong(in_body=False)
        elif not is_websocket_upgrade(self.headers):
            self._begin_anew(rest)
        elif self._tunnels(self.url):
            self.aside = self._begin(tunnel=True).feed
            if rest:
                self.aside(rest)
        elif self._method != "GET":  # a handshake is a GET (RFC 6455 4.1): this is a request like any other
            self._begin_anew(rest)
        else:
            # All that uvicorn reads of it here.
            self.scope = cast(HTTPScope, {"method": self._method, "headers": self.headers})
            self.handle_websocket_upgrade()
            self._take_back_if_unread()

    def _take_back_if_unread(self) -> None:
        """Refuse a handshake that the WebSocket library could not read: uvicorn would leave it unanswered."""
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
        lines = [b"%b %b HTTP/%b\r\n" % (self._method.encode(), self.url, self._version.encode())]
        lines += [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.begin_anew(b"".join([*lines, b"\r\n"]), rest)

    def _begin(self, *, tunnel: bool) -> RequestCycle:
        """Hand a request that the parser has read to the application, as uvicorn does, with toril's cycle."""
        keep_alive = self._version != "1.0" and self.parser.should_keep_alive() and not tunnel
        cycle = self._new_cycle(keep_alive=keep_alive, tunnel=tunnel)
        self._start(cycle)
        return cycle

    def _new_cycle(self, *, keep_alive: bool, tunnel: bool) -> RequestCycle:
        path, raw_path, query, target = self._read if self.url == self._read_from else self._read_anew(self.url)
        # At once: a scope that grows key by key is copied twice.
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": self._version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "headers": self.headers,
            "state": self.app_state.copy(),
            "method": self._method,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "extensions": {TUNNEL: {}} if tunnel else {},
            TARGET: target,
            CYCLE: None,
        }
        self.scope = scope
        cycle = self.cycle = RequestCycle(self, keep_alive=keep_alive, tunnel=tunnel, leaving=self._leaving)
        scope[CYCLE] = cycle
        return cycle

    def _start(self, cycle: RequestCycle) -> None:
        """Start the application. The answer before has been sent, else this request would be held back."""
        cycle.task = self.loop.create_task(cycle.run_asgi(self.app))
        self.tasks.add(cycle.task)

    def _read_anew(self, url: bytes) -> _Read:
        read = _read(url)
        if len(url) <= _KEPT_BYTES:
            self._read, self._read_from = read, url
        return read


def _read(url: bytes) -> _Read:
    """Return what a request's scope has of its target."""
    if _PLAIN.match(url):  # as the parser would read it, in half the time
        target = url
        raw_path, _, query = url.partition(b"?")
    else:
        parsed = httptools.parse_url(url)
        target = origin_form(url)
        raw_path, query = parsed.path or b"/", parsed.query or b""
    path = raw_path.decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path, raw_path, query, target


# A target in origin form (RFC 9112 3.2.1), of characters that a path and a query may hold.
_PLAIN_TARGET = rb"/(?!/)[A-Za-z0-9._~!$&'()*+,;=:@%/-]*(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?"
_PLAIN = re.compile(_PLAIN_TARGET + rb"\Z")
_PLAIN_LINE = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE) (%b) HTTP/1\.1\Z" % _PLAIN_TARGET)
_HEAD_END = b"\r\n\r\n"
_BAD_REQUEST = rendered(own_error(400))
