"""Puts bodies over a threshold into the blob store, so that only a reference travels, and gets them back.

A body is put before anything refers to it. Must never delete one: whoever deletes the last reference does. Called by
whoever accepts or records bodies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from toril.core.blob import BlobRef, Check, Kept, fits, reference
from toril.core.errors import BlobLost
from toril.core.ports.bodies import BlobStore
from toril.intake.switched_blobs import SwitchedBlobs

_QUICK_BYTES = 1024 * 1024


class Spill:
    """Spills and rehydrates. Without a store every body stays inline.

    Args:
        store: where bodies go; None is nowhere, and one that is switched may be nowhere for a while.
        threshold_bytes: bodies longer than this go there. May be changed at any time.
    """

    def __init__(self, store: BlobStore | None, threshold_bytes: int) -> None:
        self.threshold_bytes = threshold_bytes
        self._store = store

    async def keep(self, folder: str, job_id: str, part: str, body: bytes) -> bytes | BlobRef:
        """The body itself, or its reference once it is safely in the store. Doing it again changes nothing.

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
        await self._of(ref).put(ref.name, body)
        return ref

    async def whole(self, kept: bytes | Kept) -> bytes:
        """The body that was kept.

        Raises:
            BlobsUnavailable: it cannot be read now.
            BlobLost: it is gone, or another one.
        """
        if isinstance(kept, bytes):
            return kept
        body = await self._of(kept).get(kept.name)
        quick = kept.size_bytes <= _QUICK_BYTES
        if not (fits(kept, body) if quick else await asyncio.to_thread(fits, kept, body)):
            raise BlobLost(f"The body {kept.name} is not the one that was stored")
        return body

    async def stream(self, kept: bytes | Kept) -> AsyncIterator[bytes]:
        """The body that was kept, piece by piece; a large one is never held whole.

        Raises:
            BlobsUnavailable: it cannot be read (any further) now.
            BlobLost: it is gone, or another one: the last piece is not given out before that is known.
        """
        if isinstance(kept, bytes):
            yield kept
            return
        check, held = Check(kept), b""
        async for piece in self._of(kept).stream(kept.name):
            if held:
                yield held
            check.update(piece)
            held = piece
        if not check.passed:
            raise BlobLost(f"The body {kept.name} is not the one that was stored")
        if held:
            yield held

    def takes(self, body: bytes) -> bool:
        """True for a body that goes into the store; any other stays inline."""
        is_open = self._store.takes if isinstance(self._store, SwitchedBlobs) else self._store is not None
        return is_open and len(body) > self.threshold_bytes

    def _of(self, kept: Kept) -> BlobStore:
        if self._store is None:
            raise BlobLost(f"The body {kept.name} is in a blob store, and none is configured (payloads.url)")
        return self._store
