"""Checks that toril sent a request: Standard Webhooks' symmetric signatures, which a worker's policy asks for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Iterable
from typing import Protocol

from toril_client.errors import TorilError

TOLERANCE_S = 300
"""How old or new a request may be."""

_PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)
_SECONDS = re.compile(r"[0-9]{1,12}")


class Headers(Protocol):
    """A request's headers, as nearly every framework has them: a dict will do."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Names, in upper or lower case, and values."""


def verify(body: bytes, headers: Headers, secrets: str | Iterable[str], now_s: float | None = None) -> None:
    """Check the signature over the body as it came, in constant time, and that the request is of now.

    Raises:
        TorilError: it is not signed with one of the secrets, or not within five minutes (code `unauthorized`).
        ValueError: there is no secret, or one is not `whsec_` and 24 to 64 bytes in Base64.
    """
    keys = read_secrets([secrets] if isinstance(secrets, str) else secrets)
    if not keys:
        raise ValueError("there must be a secret to verify with")
    given = {name.lower(): value for name, value in headers.items()}
    message, at, signatures = (given.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not (message and signatures and _SECONDS.fullmatch(at) and (message + signatures).isascii()):
        raise TorilError("the request is not signed", "unauthorized", 401)
    if abs((time.time() if now_s is None else now_s) - int(at)) > TOLERANCE_S:
        raise TorilError("the request was signed more than five minutes from now", "unauthorized", 401)
    signed = f"{message}.{at}.".encode() + body
    wanted = [b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in keys]
    if not any(hmac.compare_digest(one, of.encode()) for one in wanted for of in signatures.split(" ")):
        raise TorilError("the request's signature is wrong", "unauthorized", 401)


def read_secrets(secrets: Iterable[str]) -> list[bytes]:
    """Return the keys in secrets.

    Raises:
        ValueError: one is not `whsec_` and 24 to 64 bytes in Base64; the message does not repeat it.
    """
    return [_key(secret) for secret in secrets]


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or len(key) not in _KEY_BYTES:
        raise ValueError(f"a secret is {_PREFIX} and {_KEY_BYTES[0]} to {_KEY_BYTES[-1]} bytes in Base64")
    return key
