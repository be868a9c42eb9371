"""One request that passes through to an upstream with its bodies as they come, and how its answer begins. Pure values.

The rules are those of RFC 9110 7.6: everything goes on as it came, but for what is between two neighbours. Called by
`toril.gateway.passthrough`, sent through `toril.core.ports.calls.StreamOutbound`.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from toril.core.headers import Header, end_to_end, with_forwarding

BODILESS = frozenset({204, 304})
"""Statuses whose answers have no body, whatever their headers say (RFC 9110 6.4.1)."""

REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
"""Methods of requests that may be sent a second time within an attempt, where they have no body."""


_MADE_ANEW = frozenset({b"content-length", b"host"})


class StreamRequest(Struct, frozen=True, kw_only=True):
    """A request without its body. `head` is the request line and headers without framing and without the empty line.

    `length` is that of the body, None where there is none or where it is `chunked`. `upgrade` asks for another protocol
    on the same connection: what comes behind a 101 is passed on as it is.
    """

    method: bytes
    head: bytes
    length: int | None = None
    chunked: bool = False
    upgrade: bool = False

    @property
    def has_body(self) -> bool:
        """Whether anything follows the head."""
        return self.chunked or bool(self.length)

    @property
    def repeatable(self) -> bool:
        """Whether it may be made a second time where nobody knows if the first one was heard (RFC 9110 9.2.2)."""
        return self.method in REPEATABLE and not self.has_body and not self.upgrade


class StreamHead(Struct, frozen=True):
    """How an answer begins: status, headers and reason phrase as sent. A status below 200 is not the last one."""

    status: int
    headers: list[Header]
    reason: bytes = b""


class Inbound(Struct, frozen=True, kw_only=True):
    """A request as it came: `headers` with lower-case names, `peer` is the address of who connected."""

    method: bytes
    headers: Sequence[Header]
    peer: bytes
    scheme: bytes


def direct_request(inbound: Inbound, target: bytes, host: bytes, *, upgrade: bool) -> StreamRequest:
    """The request to make of one that passes through.

    Args:
        target: path and query at the upstream.
        host: the upstream's. The client's is in `X-Forwarded-Host`.
        upgrade: let the upstream switch to a WebSocket.
    """
    length: int | None = None
    chunked = False
    for name, value in inbound.headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = True
    lines = [b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (inbound.method, target, host)]
    kept = with_forwarding(end_to_end(inbound.headers), inbound.peer, inbound.scheme)
    lines.extend(b"%b: %b\r\n" % pair for pair in kept if pair[0] not in _MADE_ANEW)
    if upgrade:
        lines.append(b"connection: Upgrade\r\nupgrade: websocket\r\n")
    return StreamRequest(
        method=inbound.method,
        head=b"".join(lines),
        length=None if chunked else length,
        chunked=chunked,
        upgrade=upgrade,
    )
