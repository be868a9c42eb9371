"""The store of large bodies, as a Protocol."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Protocol

from toril.core.blob import Blob


class BlobStore(Protocol):
    """Keeps large bodies by name. Raises `BlobsUnavailable` where it cannot be reached or refuses.

    Names are those that `toril.core.blob` makes. A blob is stored before the first reference to it is written, and
    deleted after the last one.
    """

    async def put(self, name: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Store a body durably, whole or not at all; replace one of the same name.

        A stream is stored piece by piece and never held in memory as a whole. If it raises, nothing is stored.
        """
        ...

    async def get(self, name: str) -> bytes:
        """Return the whole body. Raises `BlobLost` where there is none."""
        ...

    def stream(self, name: str) -> AsyncIterator[bytes]:
        """Yield the body in pieces, with a few MB at most in memory. Raises `BlobLost` where there is none."""
        ...

    async def delete(self, names: Sequence[str]) -> None:
        """Remove these bodies. Idempotent: missing ones are skipped."""
        ...

    def list(self, folder: str) -> AsyncIterator[Blob]:
        """Yield what is stored in a folder (names that begin with it and a slash), in any order; "" is everything."""
        ...
