"""The header `Idempotency-Key`: at most one per request, and refused by routes on which it has no effect."""

from __future__ import annotations

from collections.abc import Sequence

from toril.core.errors import InvalidRequest
from toril.core.http.headers import Header

KEY = b"idempotency-key"


def single_key(headers: Sequence[Header]) -> bytes | None:
    """Return the request's key; None without one.

    Raises:
        InvalidRequest: it has more than one.
    """
    keys = [value for name, value in headers if name == KEY]
    if len(keys) > 1:
        raise InvalidRequest("There is more than one Idempotency-Key", field="idempotency-key")
    return keys[0] if keys else None


def refuse_key(headers: Sequence[Header], instead: str) -> None:
    """Refuse a request that has a key; `instead` says what its sender can use.

    Raises:
        InvalidRequest: it has one. It would be ignored, and its sender would take a second try for safe.
    """
    for name, _ in headers:
        if name == KEY:
            raise InvalidRequest(f"Idempotency-Key has no effect here: {instead}", field="idempotency-key")
