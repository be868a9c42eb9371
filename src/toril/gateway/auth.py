"""Who is calling: bearer tokens for the API, a job's lock token for what its worker reports.

The only place that compares secrets, in constant time.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence

from toril.core.errors import Unauthorized

_SCHEME = b"Bearer "
SUBPROTOCOL = "toril"
_TOKEN_SUBPROTOCOL = "toril.bearer."  # noqa: S105 - what stands before a token


def bearer(authorization: bytes | None) -> bytes:
    """The token of an `Authorization: Bearer <token>` header, exactly so written.

    Raises:
        Unauthorized: there is none.
    """
    if authorization is None or not authorization.startswith(_SCHEME) or len(authorization) == len(_SCHEME):
        raise Unauthorized
    return authorization[len(_SCHEME) :]


def socket_authorization(
    authorization: bytes | None, query: dict[str, str], subprotocols: Sequence[str]
) -> bytes | None:
    """What a socket's caller shows, as an `Authorization` header: that header, `?token=`, or, since browsers can set
    neither a header nor want a token in a URL, the subprotocol `toril.bearer.<base64url of the token>`.
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
    """The API tokens. None configured: nobody is let in."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self._tokens = [token.encode() for token in tokens if token]

    def check(self, authorization: bytes | None) -> None:
        """Let a caller with one of the tokens pass. Every token is compared, so time tells nothing.

        Raises:
            Unauthorized: the token is none of them.
        """
        given = bearer(authorization)
        known = False
        for token in self._tokens:
            known |= hmac.compare_digest(given, token)
        if not known:
            raise Unauthorized


def check_lock(authorization: bytes | None, lock: bytes | None) -> None:
    """Let only the holder of a job's lock pass.

    Raises:
        Unauthorized: the job has no lock now, or another token holds it.
    """
    given = bearer(authorization)
    if lock is None or not hmac.compare_digest(given, lock):
        raise Unauthorized
