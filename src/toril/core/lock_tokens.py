"""Lock tokens that toril knows again when the lock is gone.

A worker that settles too late is told so, and in which state the job is; anybody else must not learn whether a
job or a queue is there. Nothing is stored for it: a token ends with a signature over itself and its queue, in digits,
so that `uuid:n` keeps the form it has with BullMQ and BullMQ Proxy.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

_BYTES = 12
_DIGITS = 29  # of the largest number of so many bytes


def owner_of(token: bytes) -> bytes:
    """The id of the instance whose slot the job has; empty where a pull worker leased it."""
    return token.rpartition(b":")[0]


class LockTokens:
    """Makes the lock tokens of an instance, and knows those of every one that has the same secrets, for a queue."""

    def __init__(self, secrets: Iterable[bytes], instance_id: str) -> None:
        self.instance_id = instance_id
        self._key = hashlib.sha256(b"\0".join(sorted({hashlib.sha256(secret).digest() for secret in secrets}))).digest()

    def made(self, queue: str, unique: str) -> bytes:
        """A token; `unique` is what no other one has."""
        return f"{unique}{self._signature(queue, unique)}".encode()

    def knows(self, queue: str, token: bytes) -> bool:
        """Whether this token was made for a job of this queue."""
        text = token.decode(errors="replace")
        unique, signature = text[:-_DIGITS], text[-_DIGITS:]
        return hmac.compare_digest(self._signature(queue, unique).encode(), signature.encode(errors="replace"))

    def _signature(self, queue: str, unique: str) -> str:
        signed = hmac.digest(self._key, f"{queue}\0{unique}".encode(errors="replace"), "sha256")
        return f"{int.from_bytes(signed[:_BYTES], 'big'):0{_DIGITS}}"
