"""The configured blob store if there is one, else a fallback that always exists.

A reload may add the configured store and remove it again. A body that is not in it is looked for in the fallback,
whatever is configured, and also after a restart.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence

from toril.core.blob import Blob
from toril.core.errors import BlobLost, BlobsUnavailable
from toril.payloads.ports import BlobStore
from toril.payloads.switched_blobs import SwitchedBlobs


class FallbackBlobs:
    """A blob store that always accepts bodies.

    Args:
        configured: stores bodies while it has a store.
        fallback: stores them otherwise.
    """

    def __init__(self, configured: SwitchedBlobs, fallback: BlobStore) -> None:
        self._configured = configured
        self._fallback = fallback

    async def put(self, name: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Store a body in one of the two stores."""
        await (self._configured if self._configured.takes else self._fallback).put(name, body)

    async def get(self, name: str) -> bytes:
        """Return the whole body, from the store that has it."""
        try:
            return await self._configured.get(name)
        except (BlobLost, BlobsUnavailable) as exc:
            try:
                return await self._fallback.get(name)
            except BlobLost as lost:
                raise self._error_of(exc, lost) from exc

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """Yield the body in pieces, from the store that has it."""
        begun = False
        try:
            async for piece in self._configured.stream(name):
                begun = True
                yield piece
        except (BlobLost, BlobsUnavailable) as exc:
            if begun:
                raise
            try:
                async for piece in self._fallback.stream(name):
                    begun = True
                    yield piece
            except BlobLost as lost:
                raise lost if begun else self._error_of(exc, lost) from exc

    async def delete(self, names: Sequence[str]) -> None:
        """Remove these bodies from both stores."""
        await self._fallback.delete(names)
        await self._configured.delete(names)

    async def list(self, folder: str) -> AsyncIterator[Blob]:
        """Yield what is stored in a folder of each store; a body that is in both comes twice."""
        for store in (self._fallback, self._configured):
            async for blob in store.list(folder):
                yield blob

    def _error_of(self, configured: BlobLost | BlobsUnavailable, fallback: BlobLost) -> BlobLost | BlobsUnavailable:
        """Return the error of the store that should have the body."""
        return configured if self._configured.takes or isinstance(configured, BlobsUnavailable) else fallback
