"""Lock tokens that toril knows again when the lock is gone.

A worker that settles too late is told so, and in which state the job is; anybody else must not learn whether a
job or a queue is there. Nothing is stored for it: a token ends with a signature over itself and its queue.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

_BYTES = 12


class LockTokens:
    """Makes the lock tokens of an instance, and knows those of every one that has the same secrets, for a queue."""

    def __init__(self, secrets: Iterable[bytes], instance_id: str) -> None:
        self.instance_id = instance_id
        self._key = hashlib.sha256(b"\0".join(sorted({hashlib.sha256(secret).digest() for secret in secrets}))).digest()

    def made(self, queue: str, unique: str) -> bytes:
        """A token; `unique` is what no other one has."""
        return f"{unique}.{self._signature(queue, unique)}".encode()

    def knows(self, queue: str, token: bytes) -> bool:
        """Whether this token was made for a job of this queue."""
        unique, _, signature = token.decode(errors="replace").rpartition(".")
        return hmac.compare_digest(self._signature(queue, unique).encode(), signature.encode(errors="replace"))

    def _signature(self, queue: str, unique: str) -> str:
        signed = hmac.digest(self._key, f"{queue}\0{unique}".encode(errors="replace"), "sha256")
        return base64.urlsafe_b64encode(signed[:_BYTES]).decode()
