"""Decompresses the bodies of answers that are compressed although compression was not asked for (RFC 9110 8.4).

Owns which content codings are known. Must never hold more of a body than the limit, however small its compressed form.
"""

from __future__ import annotations

import zlib

from msgspec.structs import replace

from toril.core.outcome import Answered

_CODING = b"content-encoding"
_MOST_CODINGS = 4
_MOST_MEMBERS = 100
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class _UnreadableError(Exception):
    """A body cannot be decompressed; the text says why."""


def unpacked(answer: Answered, most_bytes: int) -> Answered:
    """Return the answer with its body decompressed.

    A body that cannot be decompressed, or would be larger than `most_bytes`, is left out, and `unreadable` says why. An
    answer without `Content-Encoding` is returned as it is. The headers stay as they came.
    """
    if not _says_so(answer) or not answer.body or not (codings := _codings(answer)):
        return answer
    body = answer.body
    try:
        if len(codings) > _MOST_CODINGS:
            raise _UnreadableError(f"ERR_ENCODING: The answer is compressed more than {_MOST_CODINGS} times")
        for coding in reversed(codings):
            body = _decoded(body, coding, most_bytes)
    except _UnreadableError as exc:
        return replace(answer, body=b"", unreadable=str(exc))
    return replace(answer, body=body)


def _says_so(answer: Answered) -> bool:
    """Return True if there is a header to read: nearly all answers have none."""
    for name, _ in answer.headers:  # noqa: SIM110 - a quarter of what `any` takes
        if len(name) == len(_CODING) and name.lower() == _CODING:
            return True
    return False


def _codings(answer: Answered) -> list[bytes]:
    """Return the codings of a body in lower case, in the order in which they were applied."""
    named = b",".join(value for name, value in answer.headers if name.lower() == _CODING)
    found = (coding.strip(b" \t").lower() for coding in named.split(b","))
    return [coding for coding in found if coding not in {b"", b"identity"}]


def _decoded(body: bytes, coding: bytes, most_bytes: int) -> bytes:
    shown = coding[:50].decode("latin-1")
    try:
        match coding:
            case b"gzip" | b"x-gzip":
                return _inflated(body, _GZIP, most_bytes)
            case b"deflate":
                return _inflated(body, _ZLIB if _is_zlib(body) else _RAW, most_bytes)
            case _:
                raise _UnreadableError(
                    f"ERR_ENCODING: The answer is compressed with {shown}, which toril does not read"
                )
    except zlib.error:
        raise _UnreadableError(f"ERR_ENCODING: The answer says that it is {shown}, and is not") from None


def _is_zlib(body: bytes) -> bool:
    """Return True if this begins with a header of RFC 1950. Many servers send bare RFC 1951 data as `deflate`."""
    return len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def _inflated(body: bytes, window_bits: int, most_bytes: int) -> bytes:
    """Decompress a body, for gzip all its members (RFC 1952 section 2.2); bytes after them are ignored."""
    pieces: list[bytes] = []
    room = most_bytes
    for _ in range(_MOST_MEMBERS):
        inflating = zlib.decompressobj(window_bits)
        piece = inflating.decompress(body, room + 1)
        room -= len(piece)
        if room < 0:
            raise _UnreadableError(f"ERR_BODY_TOO_LARGE: The answer's body is larger than {most_bytes} bytes")
        if not inflating.eof:
            raise _UnreadableError("ERR_ENCODING: The answer's compressed body ends too early")
        pieces.append(piece)
        body = inflating.unused_data
        if window_bits != _GZIP or not body.startswith(_GZIP_MAGIC):
            return b"".join(pieces)
    raise _UnreadableError(f"ERR_ENCODING: The answer has more than {_MOST_MEMBERS} gzip members")
