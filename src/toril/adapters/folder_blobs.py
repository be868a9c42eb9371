"""Large bodies in a folder that is made when the first one is put: the store of those who have named none.

Owns what is said when the folder cannot be used: the cause, and the remedy. What is said to callers holds no path.
Called through `toril.core.ports.bodies.BlobStore`.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path

import structlog

from toril.adapters.obstore_blobs import ObstoreBlobs, open_blobs
from toril.core.blob import Blob
from toril.core.errors import BlobLost, FolderUnusable, StoreError

log = structlog.get_logger(__name__)

_NUMBER = re.compile(r"(?:os error |\[Errno )(\d+)")


class FolderBlobs:
    """`BlobStore` in a folder. Without it nothing is there to be read, and that is no fault.

    Args:
        folder: an absolute path; only its owner may look into it, if it is made here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store: ObstoreBlobs | None = None
        self._told = False

    async def put(self, name: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Store a body, in a folder that is there from then on."""
        try:
            store = await asyncio.to_thread(self._made)
            await store.put(name, body)
            self._tell(name)
        except (StoreError, OSError) as exc:
            log.error("payloads.folder_unusable", folder=str(self._folder), error=str(exc))
            raise FolderUnusable(
                f"the folder {self._folder.name} cannot be written ({_cause(exc)}): "
                "let toril write there, or configure payloads.url"
            ) from exc

    async def get(self, name: str) -> bytes:
        """The whole body."""
        try:
            return await self._there(name).get(name)
        except BlobLost as exc:
            raise self._lost(name) from exc

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """The body in pieces of about a MB."""
        try:
            async for piece in self._there(name).stream(name):
                yield piece
        except BlobLost as exc:
            raise self._lost(name) from exc

    async def delete(self, names: Sequence[str]) -> None:
        """Remove bodies."""
        store = self._opened()
        if store is not None:
            await store.delete(names)

    async def list(self, folder: str) -> AsyncIterator[Blob]:
        """What is stored in a folder of it."""
        store = self._opened()
        if store is not None:
            async for blob in store.list(folder):
                yield blob

    def _tell(self, name: str) -> None:
        """Warn of the first body in the folder: an instance on another machine cannot read it."""
        tell = log.debug if self._told else log.warning
        self._told = True
        tell(
            "payloads.kept_in_folder",
            folder=str(self._folder),
            name=name,
            hint="only this machine can read it; configure payloads.url, or raise payloads.redis_max",
        )

    def _made(self) -> ObstoreBlobs:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._opened() or open_blobs(self._folder.as_uri())

    def _there(self, name: str) -> ObstoreBlobs:
        store = self._opened()
        if store is None:
            raise self._lost(name)
        return store

    def _opened(self) -> ObstoreBlobs | None:
        """Another process of this machine may have made it by now."""
        if self._store is None and self._folder.is_dir():
            self._store = open_blobs(self._folder.as_uri())
        return self._store

    def _lost(self, name: str) -> BlobLost:
        return BlobLost(
            f"The body {name} is not in {self._folder} on this machine: "
            "where there are several, they need one store of large bodies (payloads.url)"
        )


def _cause(exc: Exception) -> str:
    """What the operating system says, without where."""
    found = _NUMBER.search(str(exc))
    number = exc.errno if isinstance(exc, OSError) else int(found[1]) if found else None
    return os.strerror(number) if number else "the log says why"
