"""Large bodies, and where they are kept."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Protocol

from toril.core.blob import Blob, BlobRef, Kept


class BlobStore(Protocol):
    """Keeps large bodies by name. Raises `BlobsUnavailable` where it cannot be reached or refuses.

    Names are those that `toril.core.blob` makes. Whoever refers to a blob puts it first and deletes it last.
    """

    async def put(self, name: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Store a body, whole or not at all, so that it is there after a crash. The same name again replaces it.

        A stream is passed on piece by piece and never held whole. If it raises, nothing is stored.
        """
        ...

    async def get(self, name: str) -> bytes:
        """The whole body. Raises `BlobLost` where there is none."""
        ...

    def stream(self, name: str) -> AsyncIterator[bytes]:
        """The body piece by piece, a few MB at most in memory. Raises `BlobLost` where there is none."""
        ...

    async def delete(self, names: Sequence[str]) -> None:
        """Remove these bodies. Those that are not there are no fault, so it can be repeated."""
        ...

    def list(self, folder: str) -> AsyncIterator[Blob]:
        """What is stored in a folder (the names that begin with it and a slash), in no order; "" is all."""
        ...


class Bodies(Protocol):
    """Keeps bodies, those over a threshold in the blob store; `toril.intake.spill` tells more."""

    @property
    def threshold_bytes(self) -> int:
        """What is longer does not stay inline, if there is a store."""

    async def keep(self, folder: str, job_id: str, part: str, body: bytes) -> bytes | BlobRef:
        """The body itself, or its reference once it is safely stored. Idempotent. Raises `BlobsUnavailable`."""
        ...

    async def whole(self, kept: bytes | Kept) -> bytes:
        """The body that was kept. Raises `BlobsUnavailable`, and `BlobLost` where it is gone or another one."""
        ...

    def stream(self, kept: bytes | Kept) -> AsyncIterator[bytes]:
        """The body that was kept, piece by piece; raises as `whole`, before the last piece."""
        ...
