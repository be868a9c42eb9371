"""HTTP/1.1 request heads as bytes, and which header names may not be set by a caller."""

from __future__ import annotations

import re
from collections.abc import Iterable

FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding", b"keep-alive", b"te", b"upgrade"})
"""Headers that describe this connection's framing: the client that writes the request sets them itself."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")


def is_header_name(name: bytes) -> bool:
    """Whether this is a token as RFC 9110 section 5.6.2 wants it."""
    return _NAME.match(name) is not None


def is_header_value(value: bytes) -> bool:
    """Whether this value can be sent as it is: no CR, LF, NUL or other control character (RFC 9110 5.5)."""
    return _VALUE.match(value) is not None


def request_head(method: bytes, target: bytes, host: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The request line and headers, without the body's framing and without the empty line that ends them.

    A `Host` among the headers wins over `host`. Framing headers are left out.
    """
    kept = [(name, value) for name, value in headers if name.lower() not in FRAMING]
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    if not any(name.lower() == b"host" for name, _ in kept):
        lines.append(b"host: %b\r\n" % host)
    lines.extend(b"%b: %b\r\n" % pair for pair in kept)
    return b"".join(lines)
