"""Tokens of callers: bearer tokens for the API, and the lock token of a job for the reports of its worker.

The only place that compares secrets, in a way whose time tells nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from time import time

from toril.core.access import Caller, Grant
from toril.core.errors import Unauthorized
from toril.core.ports import Now

_SCHEME = b"Bearer "
_LOWER_SCHEME = b"bearer "
_SIZE = len(_SCHEME)
SUBPROTOCOL = "toril"
_TOKEN_SUBPROTOCOL = "toril.bearer."  # noqa: S105 - what stands before a token
_MOST_KEPT = 1000


def bearer(authorization: bytes | None) -> bytes:
    """Return the token of an `Authorization: Bearer <token>` header: the scheme in any case (RFC 9110 11.1), one space.

    Raises:
        Unauthorized: there is none.
    """
    token = authorization[_SIZE:] if authorization is not None else b""
    if not token or authorization is None or authorization[:_SIZE].lower() != _LOWER_SCHEME:
        raise Unauthorized
    return token


def fingerprint(authorization: bytes | None) -> bytes:
    """Return the SHA-256 of the token in a header; raises as `bearer`."""
    return hashlib.sha256(bearer(authorization)).digest()


def socket_authorization(
    authorization: bytes | None, query: dict[str, str], subprotocols: Sequence[str]
) -> bytes | None:
    """Return the credentials of a socket's caller as an `Authorization` header.

    They are that header, `?token=`, or, because browsers can set no header and a token in a URL may be logged, the
    subprotocol `toril.bearer.<base64url of the token>`.
    """
    if authorization is not None:
        return authorization
    if "token" in query:
        return _SCHEME + query["token"].encode(errors="replace")
    for offered in subprotocols:
        if offered.startswith(_TOKEN_SUBPROTOCOL):
            text = offered.removeprefix(_TOKEN_SUBPROTOCOL)
            try:
                return _SCHEME + base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            except (binascii.Error, ValueError):
                return None
    return None


class Tokens:
    """The valid tokens. Without any, every request that needs one is refused.

    Tokens are looked up by their SHA-256, so the time that this takes tells nothing of them, and a configuration need
    not hold the tokens themselves. The SHA-256 of headers that were valid is kept, since making it takes as long as
    finding a route. Such a header is found by its hash, whose key is random, so that this time tells nothing either.
    """

    def __init__(self, tokens: Iterable[str] = (), grants: Iterable[Grant] = (), now: Now = time) -> None:
        self._now = now
        self._plain: dict[bytes, Caller] = {}
        self._granted: dict[bytes, Grant] = {}
        self._kept: dict[bytes | None, bytes] = {}
        self.replace(tokens, grants)

    def replace(self, tokens: Iterable[str], grants: Iterable[Grant]) -> None:
        """Replace all tokens with these plain tokens, which have all rights, and these grants."""
        # Who was let in before stays the same caller, so that asking again is one comparison.
        known = self._plain
        plain = {hashlib.sha256(token.encode()).digest() for token in tokens if token}
        self._plain = {key: known.get(key) or Caller("AUTH_TOKENS") for key in plain}
        self._granted = {grant.sha256: grant for grant in grants}
        self._kept = {}

    def holder(self, key: bytes) -> Caller | None:
        """Return the caller that the token with this SHA-256 belongs to; None if it is not valid now."""
        caller = self._plain.get(key)
        if caller is not None:
            return caller
        grant = self._granted.get(key)
        if grant is None or (grant.expires_at_s is not None and grant.expires_at_s <= self._now()):
            return None
        return grant.caller

    def expires_at_s(self, authorization: bytes | None) -> float | None:
        """Return when the token in a header expires; None if it never does or is not known."""
        grant = self._granted.get(fingerprint(authorization))
        return None if grant is None else grant.expires_at_s

    def check(self, authorization: bytes | None) -> Caller:
        """Return the caller whose token is in this header.

        Raises:
            Unauthorized: the token is not known, or has expired.
        """
        kept = self._kept.get(authorization)
        key = kept or fingerprint(authorization)
        caller = self.holder(key)
        if caller is None:
            raise Unauthorized
        if kept is None and len(self._kept) < _MOST_KEPT:
            self._kept[authorization] = key
        return caller


def check_lock(authorization: bytes | None, lock: bytes | None) -> None:
    """Check that a header contains the token of a job's lock.

    Raises:
        Unauthorized: the job has no lock now, or another token holds it.
    """
    given = bearer(authorization)
    if lock is None or not hmac.compare_digest(given, lock):
        raise Unauthorized
