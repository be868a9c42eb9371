"""HTTP/1.1 request heads as bytes, which header names may not be set by a caller, and which end at a proxy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Header = tuple[bytes, bytes]

FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding", b"keep-alive", b"te", b"upgrade"})
"""Headers that describe this connection's framing: the client that writes the request sets them itself."""

FRAMED_BY = (b"content-length", b"transfer-encoding")
"""Either of them says where a body ends; without both, it ends with its connection."""

HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"trailers", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
"""Headers that end at a proxy (RFC 9110 section 7.6.1, and RFC 7230 as proxq reads it), beside those that
`Connection` names."""

FORWARDING = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"})
"""What a proxy tells the upstream about the client; these replace what the client sent."""

ANSWER_HEAD_BYTES = 64 * 1024
"""How much of an answer may be something else than its body: heads, framing and trailer together. Servers and proxies
mostly stop at 8 to 64 KB. A setting (`engine.max_response_head_bytes`) replaces it."""

CHUNK_LINE_BYTES = 24
"""What each chunk of a body brings along in any case and is not counted: its size in hexadecimal, and two line ends."""

TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The bytes of header names and methods (RFC 9110 section 5.6.2)."""

IN_VALUES = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
"""The bytes of header values (RFC 9110 section 5.5)."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")


def is_header_name(name: bytes) -> bool:
    """Return True for a token as RFC 9110 section 5.6.2 defines it."""
    return _NAME.match(name) is not None


def is_header_value(value: bytes) -> bool:
    """Return True if a value can be sent as it is: no CR, LF, NUL or other control character (RFC 9110 5.5)."""
    return _VALUE.match(value) is not None


def header_lines(headers: Iterable[Header]) -> bytes:
    """Return headers as they stand in a head."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def request_head(method: bytes, target: bytes, host: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the request line and headers, without the body's framing and the empty line that ends them.

    A `Host` among the headers wins over `host`. Framing headers are left out.
    """
    kept = [(name, value) for name, value in headers if name.lower() not in FRAMING]
    own = b"" if any(name.lower() == b"host" for name, _ in kept) else b"host: %b\r\n" % host
    return b"%b %b HTTP/1.1\r\n%b%b" % (method, target, own, header_lines(kept))


def end_to_end(headers: Iterable[Header]) -> list[Header]:
    """Return the headers that pass a proxy, in order: all but the hop-by-hop ones and those that `Connection` names.

    Names may come in any case. `Content-Length` and `Host` pass: they are no hop-by-hop headers, and code that
    frames the message or changes its address replaces them.
    """
    pairs = list(headers)
    if HOP_BY_HOP.isdisjoint([name.lower() for name, _ in pairs]):
        return pairs
    dropped = HOP_BY_HOP
    named = connection_options(pairs)
    if named:
        dropped = HOP_BY_HOP | named - _NEVER_NAMED
    return [pair for pair in pairs if pair[0].lower() not in dropped]


# A client that names these in `Connection` would take from its own request what tells where it goes and ends.
_NEVER_NAMED = frozenset({b"content-length", b"host"})


def connection_options(headers: Iterable[Header]) -> set[bytes]:
    """Return the names that `Connection` lists, in lower case."""
    return {
        option
        for name, value in headers
        if name.lower() == b"connection"
        for part in value.lower().split(b",")
        if (option := part.strip())
    }


def foreign_coding(headers: Iterable[Header]) -> bytes | None:
    """Return the transfer codings of a message unless they are just `chunked`, the only supported one.

    `Transfer-Encoding` ends at this connection, so a body in another one would go on without its label.
    """
    codings = [value.lower() for name, value in headers if len(name) == 17 and name.lower() == b"transfer-encoding"]
    return None if not codings or codings == [b"chunked"] else b", ".join(codings)


def is_websocket_upgrade(headers: Sequence[Header]) -> bool:
    """Return True for a request for a WebSocket: `Connection` lists `upgrade`, and `Upgrade` lists `websocket`."""
    return b"upgrade" in connection_options(headers) and any(
        b"websocket" in [part.strip() for part in value.lower().split(b",")]
        for name, value in headers
        if name.lower() == b"upgrade"
    )


_ENDS_OR_REPLACED = HOP_BY_HOP | FORWARDING | {b"host"}


def forwarded(headers: Sequence[Header], peer: bytes, scheme: bytes) -> list[Header]:
    """Return `with_forwarding` of the `end_to_end` headers, without `Host`, in one pass; names are in lower case.

    Where `Connection` names other headers, or the client is behind a proxy, it takes the long way.
    """
    kept = [pair for pair in headers if pair[0] not in _ENDS_OR_REPLACED]
    host = b""
    if len(kept) != len(headers):
        for name, value in headers:
            if name == b"host":
                host = value
            elif name in FORWARDING or (name == b"connection" and value.lower() not in _ORDINARY):
                pairs = with_forwarding(end_to_end(headers), peer, scheme)
                return [pair for pair in pairs if pair[0] != b"host"]
    kept += ((b"x-forwarded-for", peer), (b"x-real-ip", peer), (b"x-forwarded-proto", scheme))
    if host:
        kept.append((b"x-forwarded-host", host))
    return kept


_ORDINARY = frozenset({b"keep-alive", b"close"})


def with_forwarding(headers: Sequence[Header], peer: bytes, scheme: bytes) -> list[Header]:
    """Return the headers with those that tell the upstream of the client, in place of the client's own.

    The client's address is the first entry of its `X-Forwarded-For`, else its `X-Real-IP`, else `peer`; protocol and
    host are what it forwards, else `scheme` and its `Host`.
    """
    told: dict[bytes, bytes] = {}
    kept: list[Header] = []
    host = b""
    for pair in headers:
        name = pair[0].lower()
        if name in FORWARDING:
            told.setdefault(name, pair[1].partition(b",")[0].strip() if name == b"x-forwarded-for" else pair[1])
            continue
        if name == b"host":
            host = pair[1]
        kept.append(pair)
    address = told.get(b"x-forwarded-for") or told.get(b"x-real-ip") or peer
    forwarded_host = told.get(b"x-forwarded-host") or host
    kept.append((b"x-forwarded-for", address))
    kept.append((b"x-real-ip", address))
    kept.append((b"x-forwarded-proto", told.get(b"x-forwarded-proto") or scheme))
    if forwarded_host:
        kept.append((b"x-forwarded-host", forwarded_host))
    return kept
