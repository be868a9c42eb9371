"""A part of a body that comes in pieces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing


async def byte_window(pieces: AsyncIterator[bytes], offset: int, length: int) -> AsyncGenerator[bytes, None]:
    """Yield at most `length` bytes of a body from `offset` on. The rest is not read."""
    async with aclosing(pieces):  # type: ignore[type-var]
        async for piece in pieces:
            shown = piece[offset : offset + length]
            offset = max(0, offset - len(piece))
            length -= len(shown)
            if shown:
                yield shown
            if not length:
                return
