"""Large bodies in a folder that is made when the first one is stored: the default where no store is configured.

Owns the errors for a folder that cannot be used, with cause and remedy. Errors shown to callers contain no path.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path

import structlog

from toril.core.blob import Blob
from toril.core.errors import BlobLost, FolderUnusable, StoreError
from toril.payloads.obstore_blobs import ObstoreBlobs, open_blobs

log = structlog.get_logger(__name__)

_NUMBER = re.compile(r"(?:os error |\[Errno )(\d+)")


class FolderBlobs:
    """`BlobStore` in a folder. While the folder does not exist, there are no bodies.

    Args:
        folder: an absolute path. If it is made here, only its owner may read it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store: ObstoreBlobs | None = None
        self._told = False

    async def put(self, name: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Store a body, and make the folder if it does not exist."""
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
        """Return the whole body."""
        try:
            return await self._there(name).get(name)
        except BlobLost as exc:
            raise self._lost(name) from exc

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """Yield the body in pieces of about a MB."""
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
        """Yield what is stored in a folder below it."""
        store = self._opened()
        if store is not None:
            async for blob in store.list(folder):
                yield blob

    def _tell(self, name: str) -> None:
        """Warn once that bodies are in a folder, which an instance on another machine cannot read."""
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
        """Return the store, if the folder exists; another process of this machine may have made it."""
        if self._store is None and self._folder.is_dir():
            self._store = open_blobs(self._folder.as_uri())
        return self._store

    def _lost(self, name: str) -> BlobLost:
        return BlobLost(
            f"The body {name} is not in {self._folder} on this machine: "
            "where there are several, they need one store of large bodies (payloads.url)"
        )


def _cause(exc: Exception) -> str:
    """Return the message of the operating system, without the path."""
    found = _NUMBER.search(str(exc))
    number = exc.errno if isinstance(exc, OSError) else int(found[1]) if found else None
    return os.strerror(number) if number else "the log says why"
