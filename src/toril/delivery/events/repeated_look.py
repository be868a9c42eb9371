"""Looks again and again: soon after it was woken, else after a pause. A store that is away is asked again."""

import asyncio
from collections.abc import Awaitable, Callable

from toril.core.errors import StoreError


async def look_repeatedly(
    look: Callable[[], Awaitable[None]],
    wake: asyncio.Event,
    failed: Callable[[StoreError], None],
    *,
    every_s: float,
    soon_s: float = 0.0,
) -> None:
    """Look until cancelled: `soon_s` after `wake` was set, and once in `every_s` at least.

    Args:
        look: may raise `StoreError`; then `failed` is called, and the next look comes as always.
        wake: is cleared before each look.
        failed: is called with what the store said.
        every_s: the longest pause between two looks, in seconds.
        soon_s: how long to gather what wakes it, in seconds.
    """
    while True:
        try:
            async with asyncio.timeout(every_s):
                await wake.wait()
                await asyncio.sleep(soon_s)
        except TimeoutError:
            pass
        wake.clear()
        try:
            await look()
        except StoreError as exc:
            failed(exc)
