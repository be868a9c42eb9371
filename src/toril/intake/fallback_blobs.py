"""The blob store of now where there is one, else another one that is always there.

A reload may bring the first and take it away again. What is not in it is looked for in the other one, whatever has been
configured meanwhile, and also after a restart. Called by whoever keeps bodies, as any blob store.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence

from toril.core.blob import Blob
from toril.core.errors import BlobLost, BlobsUnavailable
from toril.core.ports.bodies import BlobStore
from toril.intake.switched_blobs import SwitchedBlobs


class FallbackBlobs:
    """A blob store that always takes.

    Args:
        now: where bodies go while it takes them.
        other: where they go while it does not.
    """

    def __init__(self, now: SwitchedBlobs, other: BlobStore) -> None:
        self._now = now
        self._other = other

    async def put(self, name: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Store a body in one of the two."""
        await (self._now if self._now.takes else self._other).put(name, body)

    async def get(self, name: str) -> bytes:
        """The whole body, from wherever it is."""
        try:
            return await self._now.get(name)
        except (BlobLost, BlobsUnavailable) as exc:
            try:
                return await self._other.get(name)
            except BlobLost as lost:
                raise self._telling(exc, lost) from exc

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """The body piece by piece, from wherever it is."""
        begun = False
        try:
            async for piece in self._now.stream(name):
                begun = True
                yield piece
        except (BlobLost, BlobsUnavailable) as exc:
            if begun:
                raise
            try:
                async for piece in self._other.stream(name):
                    begun = True
                    yield piece
            except BlobLost as lost:
                raise lost if begun else self._telling(exc, lost) from exc

    async def delete(self, names: Sequence[str]) -> None:
        """Remove these bodies, wherever they are."""
        await self._other.delete(names)
        await self._now.delete(names)

    async def list(self, folder: str) -> AsyncIterator[Blob]:
        """What is stored in a folder of either; what is in both comes twice."""
        for store in (self._other, self._now):
            async for blob in store.list(folder):
                yield blob

    def _telling(self, of_now: BlobLost | BlobsUnavailable, of_other: BlobLost) -> BlobLost | BlobsUnavailable:
        """What went wrong where the body should have been."""
        return of_now if self._now.takes or isinstance(of_now, BlobsUnavailable) else of_other
