"""A cache of answers whose large ones are in the blob store, so that what is behind it holds only their references.

An answer whose body is gone, or in a folder of another machine, counts as not kept.
"""

from __future__ import annotations

import msgspec

from toril.core.blob import BlobRef, is_reference, owner
from toril.core.errors import BlobLost, BlobsUnavailable
from toril.payloads.payload_offload import PayloadOffload
from toril.proxy.ports import AnswerCache

FOLDER = "cached"

_MARK = b"blob:"  # no answer begins like this, because they are JSON
_decode = msgspec.json.Decoder(BlobRef).decode


class OffloadedCache:
    """`AnswerCache` over another one.

    Args:
        cache: keeps small answers, and references to large ones.
        bodies: keep large answers.
    """

    def __init__(self, cache: AnswerCache, bodies: PayloadOffload) -> None:
        self._cache = cache
        self._bodies = bodies

    async def get(self, key: str) -> bytes | None:
        """Return what is kept under this key."""
        found = await self._cache.get(key)
        if found is None or not found.startswith(_MARK):
            return found
        try:
            ref = _decode(found.removeprefix(_MARK))
            return await self._bodies.whole(ref) if owner(ref.name) == key and is_reference(ref) else None
        except (BlobLost, BlobsUnavailable, msgspec.DecodeError, RecursionError):
            return None

    async def put(self, key: str, value: bytes) -> None:
        """Keep this for the cache's time."""
        kept = await self._bodies.keep(FOLDER, key, "answer", value)
        await self._cache.put(key, _MARK + msgspec.json.encode(kept) if isinstance(kept, BlobRef) else kept)

    async def claim(self, key: str, who: bytes, for_s: float) -> bool:
        """Claim the key for a process; return False if another one has claimed it."""
        return await self._cache.claim(key, who, for_s)

    async def release(self, key: str, who: bytes) -> None:
        """Release the claim."""
        await self._cache.release(key, who)
