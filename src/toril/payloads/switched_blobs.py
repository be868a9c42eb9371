"""A blob store that a reload can replace by another one, while bodies in the former one are still referred to.

New bodies go to the current store. A body that is not there is looked for in the stores that this process used before,
the latest first. After a restart only the current store is known.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence

from toril.core.blob import Blob
from toril.core.errors import BlobLost, BlobsUnavailable
from toril.payloads.ports import BlobStore


class SwitchedBlobs:
    """The current blob store, or none for now; `put` is refused then."""

    def __init__(self, store: BlobStore | None) -> None:
        self._now = store
        self._before: list[BlobStore] = []

    @property
    def takes(self) -> bool:
        """True while there is a current store."""
        return self._now is not None

    def switch(self, store: BlobStore | None) -> None:
        """Store new bodies in this store from now on."""
        if self._now is not None:
            self._before.insert(0, self._now)
        self._now = store

    async def put(self, name: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Store a body in the current store."""
        if self._now is None:
            raise BlobsUnavailable("There is no store of large bodies now (payloads.url)")
        await self._now.put(name, body)

    async def get(self, name: str) -> bytes:
        """Return the whole body, from the store that has it."""
        lost = BlobLost(f"The body {name} is in a blob store, and none is configured (payloads.url)")
        for store in self._all():
            try:
                return await store.get(name)
            except BlobLost as exc:
                lost = exc
        raise lost

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """Yield the body in pieces, from the store that has it."""
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
        """Remove these bodies from all stores."""
        for store in self._all():
            await store.delete(names)

    async def list(self, folder: str) -> AsyncIterator[Blob]:
        """Yield what is stored in a folder of each store; a body that is in two of them comes twice."""
        for store in self._all():
            async for blob in store.list(folder):
                yield blob

    def _all(self) -> Sequence[BlobStore]:
        return [*([] if self._now is None else [self._now]), *self._before]
