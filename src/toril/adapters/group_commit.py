"""Group commit: what comes while a commit is under way goes together in the next one.

Owns the waiting and the batches; what a batch does is its ledger's business. Nothing waits for company: a lone
operation is committed at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Op = TypeVar("Op")
Result = TypeVar("Result")

Commit = Callable[[Sequence[Op]], Awaitable[Sequence[Result | Exception]]]
"""Commits a batch; a result or what went wrong for each, in order. An exception that it raises is that of all."""


class GroupCommit(Generic[Op, Result]):
    """Batches operations.

    Args:
        commit: commits a batch.
        most: how many operations a batch has at most.
        most_bytes: how large a batch is at most, by `size`; a larger operation goes alone.
        lanes: how many batches may be under way at once.
    """

    def __init__(
        self,
        commit: Commit[Op, Result],
        *,
        most: int = 256,
        size: Callable[[Op], int] = lambda op: 0,
        most_bytes: int = 16 * 2**20,
        lanes: int = 1,
    ) -> None:
        self._commit = commit
        self._most = most
        self._size = size
        self._most_bytes = most_bytes
        self._lanes = lanes
        self._waiting: deque[tuple[Op, asyncio.Future[Result]]] = deque()
        self._something = asyncio.Event()

    async def submit(self, op: Op) -> Result:
        """Have an operation committed. Who is cancelled meanwhile does not know whether it was."""
        return await self._begin(op)

    async def submit_all(self, ops: Sequence[Op]) -> list[Result]:
        """Have several committed, in as few batches as they fit in; the first failure in order is raised in the end."""
        futures = [self._begin(op) for op in ops]
        if futures:
            await asyncio.wait(futures)
        failures = [future.exception() for future in futures]
        for failure in failures:
            if failure is not None:
                raise failure
        return [future.result() for future in futures]

    def _begin(self, op: Op) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((op, future))
        self._something.set()
        return future

    async def run(self) -> None:
        """Commit until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._lanes):
                tasks.create_task(self._lane())

    async def _lane(self) -> None:
        while True:
            await self._something.wait()
            batch = self._take()
            if not batch:
                self._something.clear()
                continue
            await self._through(batch)

    def _take(self) -> list[tuple[Op, asyncio.Future[Result]]]:
        batch: list[tuple[Op, asyncio.Future[Result]]] = []
        size = 0
        while self._waiting and len(batch) < self._most:
            op, future = self._waiting[0]
            size += self._size(op)
            if batch and size > self._most_bytes:
                break
            self._waiting.popleft()
            if not future.done():  # nobody waits for it any more, and nothing of it has begun
                batch.append((op, future))
        return batch

    async def _through(self, batch: list[tuple[Op, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._commit([op for op, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as exc:
            results = [exc] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
