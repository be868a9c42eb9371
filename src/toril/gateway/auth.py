"""Who is calling: bearer tokens for the API, a job's lock token for what its worker reports.

The only place that compares secrets, in constant time.
"""

from __future__ import annotations

import hmac

from toril.core.errors import Unauthorized

_SCHEME = b"Bearer "


def bearer(authorization: bytes | None) -> bytes:
    """The token of an `Authorization: Bearer <token>` header, exactly so written.

    Raises:
        Unauthorized: there is none.
    """
    if authorization is None or not authorization.startswith(_SCHEME) or len(authorization) == len(_SCHEME):
        raise Unauthorized
    return authorization[len(_SCHEME) :]


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
