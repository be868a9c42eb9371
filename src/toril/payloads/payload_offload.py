"""Stores bodies over a threshold in the blob store, so that Redis and the ledger hold a reference, and reads them back.

A body is stored before anything refers to it. Must never delete one: the code that deletes the last reference does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from toril.core.blob import BlobRef, Check, Kept, fits, reference
from toril.core.errors import BlobLost, StoreError
from toril.core.metrics import PAYLOAD_FAILURES, UNMETERED
from toril.core.ports import Meter
from toril.payloads.ports import BlobStore
from toril.payloads.switched_blobs import SwitchedBlobs

_QUICK_BYTES = 1024 * 1024


class PayloadOffload:
    """Offloads large bodies and reads them back. Without a store every body stays inline.

    Args:
        store: keeps the large bodies, if there is one; `SwitchedBlobs` may have none for a while.
        threshold_bytes: longer bodies are offloaded. May be changed at any time.

    `meter` counts what could not be stored or read, once it is set.
    """

    def __init__(self, store: BlobStore | None, threshold_bytes: int) -> None:
        self.threshold_bytes = threshold_bytes
        self._store = store
        self.meter: Meter = UNMETERED

    async def keep(self, folder: str, job_id: str, part: str, body: bytes) -> bytes | BlobRef:
        """Return the body itself, or its reference once it is durably in the store. Idempotent.

        Raises:
            BlobsUnavailable: it could not be stored.
        """
        if not self.takes(body):
            return body
        # Off the loop: a body of 50 MB takes some 50 ms to hash.
        quick = len(body) <= _QUICK_BYTES
        ref = (
            reference(folder, job_id, part, body)
            if quick
            else await asyncio.to_thread(reference, folder, job_id, part, body)
        )
        with self._counting("stored"):
            await self._of(ref).put(ref.name, body)
        return ref

    async def whole(self, kept: bytes | Kept) -> bytes:
        """Return the body that was kept.

        Raises:
            BlobsUnavailable: it cannot be read now.
            BlobLost: it is missing, or has changed.
        """
        if isinstance(kept, bytes):
            return kept
        with self._counting("read"):
            body = await self._of(kept).get(kept.name)
        quick = kept.size_bytes <= _QUICK_BYTES
        if not (fits(kept, body) if quick else await asyncio.to_thread(fits, kept, body)):
            raise BlobLost(f"The body {kept.name} is not the one that was stored")
        return body

    async def stream(self, kept: bytes | Kept) -> AsyncIterator[bytes]:
        """Yield the body that was kept in pieces; a large one is never held in memory as a whole.

        Raises:
            BlobsUnavailable: it cannot be read, or read on, now.
            BlobLost: it is missing, or has changed; this is checked before the last piece is yielded.
        """
        if isinstance(kept, bytes):
            yield kept
            return
        check, held = Check(kept), b""
        with self._counting("read"):
            async for piece in self._of(kept).stream(kept.name):
                if held:
                    yield held
                check.update(piece)
                held = piece
        if not check.passed:
            raise BlobLost(f"The body {kept.name} is not the one that was stored")
        if held:
            yield held

    @contextmanager
    def _counting(self, way: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            self.meter.count(PAYLOAD_FAILURES, (way,))
            raise

    def takes(self, body: bytes) -> bool:
        """Return True for a body that is offloaded; any other stays inline."""
        is_open = self._store.takes if isinstance(self._store, SwitchedBlobs) else self._store is not None
        return is_open and len(body) > self.threshold_bytes

    def _of(self, kept: Kept) -> BlobStore:
        if self._store is None:
            raise BlobLost(f"The body {kept.name} is in a blob store, and none is configured (payloads.url)")
        return self._store
