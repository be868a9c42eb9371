"""Signs requests as Standard Webhooks does: a receiver with the secret can tell that toril sent one, and when.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, symmetric signatures.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from msgspec import Struct

MAX_SECRETS = 2
"""The one in use, and during a rotation the one before or after it."""

HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
_PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)


class Secret(Struct, frozen=True):
    """The key of a signature; it does not show itself."""

    key: bytes

    def __repr__(self) -> str:
        return "Secret(…)"


def read_secret(text: Any) -> Secret:
    """Return the secret of a text: `whsec_` and the key in Base64.

    Raises:
        ValueError: saying what is wrong without repeating it.
    """
    if not isinstance(text, str) or not text.startswith(_PREFIX):
        raise ValueError(f"must be a text that begins with {_PREFIX}")
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"must be Base64 behind {_PREFIX}") from None
    if len(key) not in _KEY_BYTES:
        raise ValueError(f"must hold {_KEY_BYTES[0]} to {_KEY_BYTES[-1]} bytes in Base64, and holds {len(key)}")
    return Secret(key)


def message_id(queue: bytes, job_id: bytes, added_at_ms: bytes) -> bytes:
    """Return the id of a message, the same for all attempts of a job: `bull:orders:7@1700000000000`.

    That is the job's key in Redis and when it was added, as a custom id may come again after its job was removed. What
    is not plain is percent-encoded; the full stop is too, because it divides what is signed.
    """
    key = quote(b"%b:%b" % (queue, job_id), safe=":").replace(".", "%2E")
    return b"%b@%b" % (key.encode(), added_at_ms)


class Signer:
    """A signature of one message whose body comes piece by piece."""

    def __init__(self, secrets: Sequence[Secret], message: bytes, at_s: int) -> None:
        self._message = message
        self._at_s = at_s
        before = b"%b.%d." % (message, at_s)
        self._codes = [hmac.new(secret.key, before, hashlib.sha256) for secret in secrets]

    def update(self, piece: bytes) -> None:
        """Take the next piece of the body."""
        for code in self._codes:
            code.update(piece)

    def headers(self) -> bytes:
        """Return the three headers as lines of a request's head, with one signature for each secret."""
        return _headers(self._message, self._at_s, [code.digest() for code in self._codes])


def signature_headers(secrets: Sequence[Secret], message: bytes, at_s: int, body: bytes) -> bytes:
    """Return the three headers for a whole body."""
    signed = b"%b.%d.%b" % (message, at_s, body)
    return _headers(message, at_s, [hmac.digest(secret.key, signed, hashlib.sha256) for secret in secrets])


def _headers(message: bytes, at_s: int, digests: Sequence[bytes]) -> bytes:
    signatures = b" ".join(b"v1," + base64.b64encode(digest) for digest in digests)
    return b"webhook-id: %b\r\nwebhook-timestamp: %d\r\nwebhook-signature: %b\r\n" % (message, at_s, signatures)
