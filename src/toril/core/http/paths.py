"""Dot segments in callers' paths, which could lead out of the operator's URL that the path is joined to.

Servers differ in what they take for a dot segment (RFC 3986 section 3.3). Here every spelling counts that a known
server reads as one: `..`, percent-encoded in any case (`%2e.`), with path parameters behind it (`..;x`), where a server
lets the path end (`..#`, `..%3f`), with blanks or control characters beside it (`..%20`), and between backslashes or
encoded separators (`..\\`, `..%2f`, `..%5c`).
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

_SEPARATORS = re.compile(rb"[/\\]")
# What a name ends at: path parameters, or the path itself. A raw `?` has been cut off before; who decodes first sees
# an encoded one.
_ENDS = re.compile(rb"[;#?]")
_BLANKS = bytes(range(0x21)) + b"\x7f"
_UP, _HERE = b"..", b"."


def has_dot_segments(path: bytes) -> bool:
    """Return True if a path (without its query) holds a dot segment in any spelling, wherever it leads."""
    if b"." not in path and b"%" not in path:
        return False
    return any(part in (_UP, _HERE) for segment in path.split(b"/") for part in _parts(segment))


def climbs_out(target: bytes) -> bool:
    """Return True if a server may take this target (a path and a query) for one above its start.

    `/a/../b` does not climb out, `/../b` and `/a/..;/../b` do. Where servers read a segment differently, the reading
    that leads further up counts.
    """
    path = target.partition(b"?")[0]
    if b".." not in path and b"%" not in path:
        return False
    depth = 0
    for segment in path.split(b"/"):
        whole = depth + 1 if segment.strip(_BLANKS) else depth  # to a server that decodes nothing
        for part in _parts(segment):
            if part == _UP:
                depth -= 1
            elif part not in (_HERE, b""):
                depth += 1
            if depth < 0:
                return True
        depth = min(depth, whole)
    return False


def _parts(segment: bytes) -> list[bytes]:
    """Return the names that a server may see in a segment, decoded, up to where they end, without blanks."""
    decoded = unquote_to_bytes(segment) if b"%" in segment else segment
    return [_ENDS.split(part, 1)[0].strip(_BLANKS) for part in _SEPARATORS.split(decoded)]
