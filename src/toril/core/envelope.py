"""A recorded request and a recorded response, and the JSON that is stored of them.

The JSON is made to be read, in a BullMQ dashboard say: a body that is UTF-8 is there as text, any other one as
base64. Header names and values are bytes on the wire; in JSON they are texts of the same code points (latin-1), so
nothing is lost. What was recorded is read back byte for byte.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from toril.core.blob import BlobRef
from toril.core.headers import Header

Pairs = Sequence[Header]


class RecordedRequest(Struct, frozen=True, kw_only=True):
    """A request to make later.

    `target` is the raw request target; `headers` are the ones to send, in order, `Content-Length` included where
    there is to be one, and without `Host`. `timeout_s` replaces the destination's own for this request.
    """

    method: str
    target: str
    headers: Pairs
    body: bytes = b""
    timeout_s: float | None = None


class RecordedResponse(Struct, frozen=True, kw_only=True):
    """An answer as it came. A body in the blob store has its reference here, and `body` is empty."""

    status: int
    reason: str
    headers: Pairs
    body: bytes = b""
    blob: BlobRef | None = None


class _StoredRequest(Struct, omit_defaults=True):
    """The JSON of a request; no body of any kind means an empty one."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    timeout: float | None = None
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
    """The JSON text of a request."""
    text, packed = _body_texts(request.body)
    return _encode(
        _StoredRequest(request.method, request.target, _texts(request.headers), request.timeout_s, text, packed)
    )


def decode_request(stored: bytes) -> RecordedRequest:
    """The request of a JSON text.

    Raises:
        ValueError: it is none.
    """
    found = _decode_request(stored)
    return RecordedRequest(
        method=found.method,
        target=found.target,
        headers=_pairs(found.headers),
        body=_body_bytes(found.body, found.bodyBase64),
        timeout_s=found.timeout,
    )


def encode_response(response: RecordedResponse) -> bytes:
    """The JSON text of an answer."""
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
    """The answer of a JSON text.

    Raises:
        ValueError: it is none.
    """
    found = _decode_response(stored)
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
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _body_texts(body: bytes) -> tuple[str, str]:
    if not body:
        return "", ""
    try:
        return body.decode(), ""
    except UnicodeDecodeError:
        return "", b64encode(body).decode()


def _body_bytes(text: str, packed: str) -> bytes:
    return b64decode(packed, validate=True) if packed else text.encode()
