"""The blob store that a reload can exchange for another one, while bodies in the one before are still referred to.

What is new goes to the store of now. What is not there is looked for in those that this process has used before, the
last one first; after a restart it has to be in the store of now. Called by whoever keeps bodies, as any blob store.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence

from toril.core.blob import Blob
from toril.core.errors import BlobLost, BlobsUnavailable
from toril.core.ports.bodies import BlobStore


class SwitchedBlobs:
    """A blob store, or none at all for now (`put` is refused then)."""

    def __init__(self, store: BlobStore | None) -> None:
        self._now = store
        self._before: list[BlobStore] = []

    @property
    def takes(self) -> bool:
        """Whether there is a store to put something into."""
        return self._now is not None

    def switch(self, store: BlobStore | None) -> None:
        """From now on, bodies go there."""
        if self._now is not None:
            self._before.insert(0, self._now)
        self._now = store

    async def put(self, name: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Store a body in the store of now."""
        if self._now is None:
            raise BlobsUnavailable("There is no store of large bodies any more (payloads.url)")
        await self._now.put(name, body)

    async def get(self, name: str) -> bytes:
        """The whole body, from wherever it is."""
        lost = BlobLost(f"The body {name} is in a blob store, and none is configured (payloads.url)")
        for store in self._all():
            try:
                return await store.get(name)
            except BlobLost as exc:
                lost = exc
        raise lost

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """The body piece by piece, from wherever it is."""
        lost = BlobLost(f"The body {name} is in a blob store, and none is configured (payloads.url)")
        for store in self._all():
            begun = False
            try:
                async for piece in store.stream(name):
                    begun = True
                    yield piece
                return
            except BlobLost as exc:
                if begun:
                    raise
                lost = exc
        raise lost

    async def delete(self, names: Sequence[str]) -> None:
        """Remove these bodies, wherever they are."""
        for store in self._all():
            await store.delete(names)

    async def list(self, folder: str) -> AsyncIterator[Blob]:
        """What is stored in a folder of any of the stores; what is in two of them comes twice."""
        for store in self._all():
            async for blob in store.list(folder):
                yield blob

    def _all(self) -> Sequence[BlobStore]:
        return [*([] if self._now is None else [self._now]), *self._before]
