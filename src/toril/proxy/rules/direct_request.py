"""The request to an upstream for a request that passes through, whose body is streamed.

The rules are those of RFC 9110 7.6: everything is passed on as it came, except what is meant for the next hop only.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from toril.core.http.headers import Header, forwarded
from toril.core.http.streaming import StreamRequest


class Inbound(Struct, frozen=True, kw_only=True):
    """A request as it came: `headers` with lower-case names, `peer` is the address of the client."""

    method: bytes
    headers: Sequence[Header]
    peer: bytes
    scheme: bytes


def direct_request(inbound: Inbound, target: bytes, host: bytes, *, upgrade: bool) -> StreamRequest:
    """Return the request to the upstream for one that passes through.

    Args:
        target: path and query at the upstream.
        host: the upstream's. The client's is in `X-Forwarded-Host`.
        upgrade: let the upstream switch to a WebSocket.
    """
    given = dict(inbound.headers)
    chunked, length = b"transfer-encoding" in given, given.get(b"content-length")
    lines = [b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (inbound.method, target, host)]
    kept = forwarded(inbound.headers, inbound.peer, inbound.scheme)
    lines += [b"%b: %b\r\n" % pair for pair in kept if pair[0] != b"content-length"]  # which is made anew
    if upgrade:
        lines.append(b"connection: Upgrade\r\nupgrade: websocket\r\n")
    return StreamRequest(
        method=inbound.method,
        head=b"".join(lines),
        length=None if chunked or length is None else int(length),
        chunked=chunked,
        upgrade=upgrade,
    )
