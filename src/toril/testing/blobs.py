"""A `BlobStore` in memory."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence

from toril.core.blob import Blob
from toril.core.errors import BlobLost
from toril.core.ports import Now


class FakeBlobs:
    """Keeps bodies in `bodies`. `fault` is raised by every call while it is set; `calls` has all calls in order.

    Args:
        now: the wall clock, for when bodies were put.
        piece_bytes: how large the pieces of a stream are.
    """

    def __init__(self, now: Now, piece_bytes: int = 64 * 1024) -> None:
        self.bodies: dict[str, bytes] = {}
        self.calls: list[tuple[str, str]] = []
        self.fault: Exception | None = None
        self._put_at: dict[str, float] = {}
        self._now = now
        self._piece_bytes = piece_bytes

    async def put(self, name: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Keep a body."""
        self._called("put", name)
        whole = body if isinstance(body, bytes) else b"".join([piece async for piece in body])
        self.bodies[name] = whole
        self._put_at[name] = self._now()

    async def get(self, name: str) -> bytes:
        """Return a body."""
        self._called("get", name)
        if name not in self.bodies:
            raise BlobLost(f"There is no {name}")
        return self.bodies[name]

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """Return a body in pieces."""
        body = await self.get(name)
        for start in range(0, len(body), self._piece_bytes):
            yield body[start : start + self._piece_bytes]

    async def delete(self, names: Sequence[str]) -> None:
        """Delete bodies."""
        for name in names:
            self._called("delete", name)
            self.bodies.pop(name, None)

    async def list(self, folder: str) -> AsyncIterator[Blob]:
        """Return what is kept in a folder."""
        self._called("list", folder)
        within = f"{folder}/" if folder else ""
        for name, body in list(self.bodies.items()):
            if name.startswith(within):
                yield Blob(name, len(body), self._put_at[name])

    def _called(self, what: str, name: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.calls.append((what, name))
