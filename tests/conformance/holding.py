"""Async context managers in fixtures."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

T = TypeVar("T")


async def held(manager: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a context manager in one and the same task, for `async for` in a fixture.

    pytest-asyncio runs the two halves of a fixture in two tasks, and a task group (there is one in each of our
    managers) belongs to the task that made it.
    """
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def hold() -> None:
        async with manager as made:
            entered.set_result(made)
            await over.wait()

    holder = asyncio.ensure_future(hold())
    either: list[asyncio.Future[Any]] = [holder, entered]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not entered.done():
        entered.cancel()
        await holder  # raises what kept it from entering
    try:
        yield entered.result()
    finally:
        over.set()
        await holder
