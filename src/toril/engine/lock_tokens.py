"""Lock tokens that toril recognizes after the lock is gone.

A worker that settles too late learns so, and in which state the job is; other callers must not learn whether a job or a
queue exists. Nothing is stored for that: a token ends with a signature over itself and its queue, in digits, so that
`uuid:n` keeps the form that it has with BullMQ and BullMQ Proxy.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

_BYTES = 12
_DIGITS = 29  # of the largest number of so many bytes


def owner_of(token: bytes) -> bytes:
    """Return the id of the instance in whose slot the job is; empty for a job that a pull worker leased."""
    return token.rpartition(b":")[0]


class LockTokens:
    """Makes the lock tokens of an instance, and recognizes those of every instance with the same secrets."""

    def __init__(self, secrets: Iterable[bytes], instance_id: str) -> None:
        self.instance_id = instance_id
        self._key = hashlib.sha256(b"\0".join(sorted({hashlib.sha256(secret).digest() for secret in secrets}))).digest()

    def made(self, queue: str, unique: str) -> bytes:
        """Return a token; `unique` is what sets it apart from all others."""
        return f"{unique}{self._signature(queue, unique)}".encode()

    def knows(self, queue: str, token: bytes) -> bool:
        """Return True if this token was made for a job of this queue."""
        text = token.decode(errors="replace")
        unique, signature = text[:-_DIGITS], text[-_DIGITS:]
        return hmac.compare_digest(self._signature(queue, unique).encode(), signature.encode(errors="replace"))

    def _signature(self, queue: str, unique: str) -> str:
        signed = hmac.digest(self._key, f"{queue}\0{unique}".encode(errors="replace"), "sha256")
        return f"{int.from_bytes(signed[:_BYTES], 'big'):0{_DIGITS}}"
