"""Header lines that have come before, and what the parser has read of them. Pure.

A caller that keeps its connection sends the same lines with each request, so what was read of them once is kept, and a
request is not parsed whose lines are the same byte for byte. benchmarks/README.md says what that saves. Only lines are
kept that leave one way to frame a request: its length is known, and its connection stays and goes on with HTTP.
"""

from __future__ import annotations

from typing import NamedTuple

from toril.core.http.headers import Header

_LINE_END = b"\r\n"
_MOST_LINES_BYTES = 1024
_MOST = 256
# A larger body does not come in one read with its head.
_MOST_BODY_BYTES = 65_536
_OTHER_FRAMING = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"proxy-connection"})


class KnownHead(NamedTuple):
    """What the parser has read: the headers, with names in lower case, and the length of the body."""

    headers: list[Header]
    length: int


class KnownHeads:
    """The newest lines of all connections, of which there are at most 256 of 1 KB. They hold tokens of callers."""

    def __init__(self) -> None:
        self._kept: dict[bytes, KnownHead] = {}
        self.find = self._kept.get

    def keep(self, lines: bytes, headers: list[Header]) -> None:
        """Keep lines that the parser has accepted in a request of HTTP/1.1; do nothing where they must be parsed anew.

        Args:
            lines: from the end of the request line to the empty line, without the latter: each begins with `CR LF`.
            headers: what the parser has read of them.
        """
        bare = lines.replace(_LINE_END, b"")
        if len(lines) > _MOST_LINES_BYTES or b"\r" in bare or b"\n" in bare:
            return
        if len(headers) != lines.count(_LINE_END):
            return
        length = 0
        for name, value in headers:
            if name in _OTHER_FRAMING or (name == b"connection" and value.lower() != b"keep-alive"):
                return
            if name == b"content-length":
                length = int(value)
        if length > _MOST_BODY_BYTES:
            return
        if len(self._kept) >= _MOST:
            self._kept.clear()
        self._kept[lines] = KnownHead(headers.copy(), length)
