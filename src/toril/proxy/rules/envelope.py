"""A recorded request, a recorded response, and the JSON in which they are stored.

The JSON is readable, in a BullMQ dashboard say: a UTF-8 body is text, any other one is base64. Header names and values
are bytes on the wire and texts of the same code points (latin-1) in JSON, so nothing is lost: it is read back byte for
byte. Other programs can write to the queue, too, so what is read back is checked like an incoming request.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from toril.core.blob import BlobRef, is_reference
from toril.core.http.headers import (
    FORWARDING,
    HOP_BY_HOP,
    IN_VALUES,
    TOKEN,
    Header,
    end_to_end,
    is_header_name,
    is_header_value,
)
from toril.core.http.paths import climbs_out

Pairs = Sequence[Header]

_TARGET = re.compile(rb"/[\x21-\x7e\x80-\xff]*\Z")
_NOT_RECORDED = HOP_BY_HOP | {b"host"}
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class RecordedRequest(Struct, frozen=True, kw_only=True):
    """A request to make later.

    `target` is the raw request target; `headers` are those to send, in order, with `Content-Length` if there is to be
    one, and without `Host`. `timeout_s` replaces the destination's timeout. `forwarding` are the forwarding headers
    that the client sent, if `headers` has toril's instead; None if `headers` has the client's.
    """

    method: str
    target: str
    headers: Pairs
    body: bytes = b""
    timeout_s: float | None = None
    forwarding: Pairs | None = None

    @property
    def own_headers(self) -> Pairs:
        """Return the headers that the client sent."""
        if self.forwarding is None:
            return self.headers
        return [*(pair for pair in self.headers if pair[0].lower() not in FORWARDING), *self.forwarding]


class RecordedResponse(Struct, frozen=True, kw_only=True):
    """An answer as it came. If its body is in the blob store, `blob` is the reference and `body` is empty."""

    status: int
    reason: str
    headers: Pairs
    body: bytes = b""
    blob: BlobRef | None = None


class _StoredRequest(Struct, omit_defaults=True):
    """The JSON of a request; without either body it is empty."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    timeout: float | None = None
    forwarding: list[tuple[str, str]] | None = None
    body: str = ""
    bodyBase64: str = ""  # noqa: N815 - JSON's spelling


class _StoredResponse(Struct, omit_defaults=True):
    """The JSON of an answer."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    blob: BlobRef | None = None
    body: str = ""
    bodyBase64: str = ""  # noqa: N815 - as above


_encode = msgspec.json.Encoder().encode
_decode_request = msgspec.json.Decoder(_StoredRequest).decode
_decode_response = msgspec.json.Decoder(_StoredResponse).decode


def encode_request(request: RecordedRequest) -> bytes:
    """Return the JSON text of a request."""
    text, packed = _body_texts(request.body)
    own = None if request.forwarding is None else _texts(request.forwarding)
    return _encode(
        _StoredRequest(request.method, request.target, _texts(request.headers), request.timeout_s, own, text, packed)
    )


def decode_request(stored: bytes) -> RecordedRequest:
    """Return the request in a JSON text as it can be sent, without hop-by-hop headers and `Host`.

    Raises:
        ValueError: it is no request, or one that would have been refused; says why.
    """
    try:
        found = _decode_request(stored)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    method = _bytes(found.method, "its method")
    if not is_header_name(method) or method.upper() == b"CONNECT":
        raise ValueError("its method is not one that can be sent")
    target = _bytes(found.target, "its target")
    if not _TARGET.match(target):
        raise ValueError("its target is no path, or holds characters that cannot be sent")
    if climbs_out(target):
        raise ValueError("its target leads out of the upstream's path")
    if found.timeout is not None and found.timeout <= 0:
        raise ValueError("its timeout is not a positive number of seconds")
    body = _body_bytes(found.body, found.bodyBase64)
    return RecordedRequest(
        method=found.method,
        target=found.target,
        headers=_framed(_pairs(found.headers), body),
        body=body,
        timeout_s=found.timeout,
        forwarding=None if found.forwarding is None else _pairs(found.forwarding),
    )


def _framed(headers: list[Header], body: bytes) -> list[Header]:
    """Return the headers to send with this body, with its true length if there is to be one."""
    names = [name.lower() for name, _ in headers]
    if not _NOT_RECORDED.isdisjoint(names):
        headers = [pair for pair in end_to_end(headers) if pair[0].lower() != b"host"]
        names = [name.lower() for name, _ in headers]
    if b"content-length" not in names:
        return [*headers, (b"content-length", b"%d" % len(body))] if body else headers
    if names.count(b"content-length") > 1 or headers[names.index(b"content-length")][1] != b"%d" % len(body):
        raise ValueError("its content-length is not that of its body")
    return headers


def encode_response(response: RecordedResponse) -> bytes:
    """Return the JSON text of an answer."""
    text, packed = _body_texts(response.body)
    return _encode(
        _StoredResponse(
            response.status,
            response.reason,
            _texts(response.headers),
            response.blob,
            text,
            packed,
        )
    )


def decode_response(stored: bytes) -> RecordedResponse:
    """Return the answer in a JSON text.

    Raises:
        ValueError: it is no answer, or one that cannot be sent; says why.
    """
    try:
        found = _decode_response(stored)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not 200 <= found.status <= 599:
        raise ValueError(f"its status {found.status} cannot be sent")
    if _CONTROL.search(found.reason) or not _is_latin(found.reason):
        raise ValueError("its reason holds characters that cannot be sent")
    if found.blob is not None and not is_reference(found.blob):
        raise ValueError("its body is not where toril puts bodies")
    return RecordedResponse(
        status=found.status,
        reason=found.reason,
        headers=_pairs(found.headers),
        body=_body_bytes(found.body, found.bodyBase64),
        blob=found.blob,
    )


def _texts(headers: Pairs) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _pairs(headers: Sequence[tuple[str, str]]) -> list[Header]:
    """Return headers as bytes.

    Raises:
        ValueError: one of them cannot be sent; says which.
    """
    if not headers:
        return []
    # All at once, because every attempt does this: one by one, 15 headers cost 50 µs more.
    try:
        names = "\n".join([name for name, _ in headers]).encode("latin-1")
        values = "\n".join([value for _, value in headers]).encode("latin-1")
    except UnicodeEncodeError:
        raise _fault(headers) from None
    between = b"\n" * (len(headers) - 1)
    each = names.split(b"\n")
    if names.translate(None, TOKEN) != between or values.translate(None, IN_VALUES) != between or b"" in each:
        raise _fault(headers)
    return list(zip(each, values.split(b"\n"), strict=True))


def _fault(headers: Sequence[tuple[str, str]]) -> ValueError:
    """Return what is wrong with headers of which one cannot be sent."""
    for name, value in headers:
        if not name.isascii() or not is_header_name(name.encode()):
            return ValueError(f"{name[:100]!r} is not the name of a header")
        if not _is_latin(value) or not is_header_value(value.encode("latin-1")):
            return ValueError(f"its header {name[:100]} holds characters that cannot be sent")
    raise AssertionError("each of the headers can be sent")


def _is_latin(text: str) -> bool:
    return text.isascii() or max(text) <= "\xff"


def _bytes(text: str, what: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds characters that cannot be sent") from None


def _body_texts(body: bytes) -> tuple[str, str]:
    if not body:
        return "", ""
    try:
        return body.decode(), ""
    except UnicodeDecodeError:
        return "", b64encode(body).decode()


def _body_bytes(text: str, packed: str) -> bytes:
    return b64decode(packed, validate=True) if packed else text.encode()
