"""Group commit: what comes while a commit is under way goes together in the next one.

Owns the waiting and the batches; what a batch does is its ledger's business. Nothing waits for company: a lone
operation is committed at once. A ledger that hangs must not fill the memory: what waits is bounded by number, by bytes
and in time, and what is over a bound is refused at once with nothing written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from toril.core.errors import LedgerUnavailable

Op = TypeVar("Op")
Result = TypeVar("Result")

Commit = Callable[[Sequence[Op]], Awaitable[Sequence[Result | Exception]]]
"""Commits a batch; a result or what went wrong for each, in order. An exception that it raises is that of all."""

_LOOKS_PER_PATIENCE = 10


class Bounds(Struct, frozen=True):
    """How much a batch holds, and how much may wait for one.

    `batch` operations or `batch_bytes` make a batch; a larger operation goes alone. At most `waiting` operations and
    `waiting_bytes` are held, those under way included: 64 MiB is more than a second of 500 envelopes of 100 KB each, so
    a ledger that only pauses refuses nothing. A lone operation of any size is taken. `patience_s` is how long an
    operation waits for its turn, and then again for the answer; callers of HTTP rarely wait for longer than twice that.
    """

    batch: int = 256
    batch_bytes: int = 16 * 2**20
    waiting: int = 10_000
    waiting_bytes: int = 64 * 2**20
    patience_s: float = 10.0


class _Held(Generic[Op, Result]):
    """An operation with its size, the future of its result, and since when it waits for what comes next."""

    __slots__ = ("future", "op", "since_s", "size_bytes")

    def __init__(self, op: Op, size_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        self.op = op
        self.size_bytes = size_bytes
        self.since_s = loop.time()
        self.future: asyncio.Future[Result] = loop.create_future()

    def fail(self, exc: Exception) -> None:
        """Tell the caller, who may be gone or have been told already."""
        if not self.future.done():
            self.future.set_exception(exc)

    def result(self) -> Result | Exception:
        """What became of it, which is known by now."""
        exc = self.future.exception()
        if exc is None:
            return self.future.result()
        if isinstance(exc, Exception):
            return exc
        raise exc


class GroupCommit(Generic[Op, Result]):
    """Batches operations.

    Args:
        commit: commits a batch.
        size: about how many bytes an operation takes.
        bounds: of batches, and of what waits.
        lanes: how many batches may be under way at once.
    """

    def __init__(
        self,
        commit: Commit[Op, Result],
        *,
        size: Callable[[Op], int],
        bounds: Bounds | None = None,
        lanes: int = 1,
    ) -> None:
        self._commit = commit
        self._size = size
        self._bounds = bounds or Bounds()
        self._lanes = lanes
        self._waiting: deque[_Held[Op, Result]] = deque()
        self._under_way: set[_Held[Op, Result]] = set()
        self._held = 0
        self._held_bytes = 0
        self._something = asyncio.Event()

    async def submit(self, op: Op) -> Result:
        """Have an operation committed.

        Raises:
            LedgerUnavailable: too much waits already, or it has waited for too long; the message says whether it may
                have been written. A caller that is cancelled does not know: what had not begun is dropped.
        """
        return await self._begin(op).future

    async def submit_all(self, ops: Sequence[Op]) -> list[Result | Exception]:
        """Have several committed, in as few batches as they fit in; a result or what went wrong for each, in order."""
        begun: list[_Held[Op, Result] | LedgerUnavailable] = []
        for op in ops:
            try:
                begun.append(self._begin(op))
            except LedgerUnavailable as exc:
                begun.append(exc)
        futures = [one.future for one in begun if isinstance(one, _Held)]
        try:
            if futures:
                await asyncio.wait(futures)
        except asyncio.CancelledError:
            for future in futures:
                future.cancel()
            raise
        return [one if isinstance(one, LedgerUnavailable) else one.result() for one in begun]

    def _begin(self, op: Op) -> _Held[Op, Result]:
        size_bytes, bounds = self._size(op), self._bounds
        if self._held >= bounds.waiting or (self._held and self._held_bytes + size_bytes > bounds.waiting_bytes):
            raise LedgerUnavailable(
                f"The ledger is behind: {self._held} operations of {self._held_bytes} bytes wait for it. Nothing was "
                "written. Try again.",
                reason="too much waits for it",
            )
        one: _Held[Op, Result] = _Held(op, size_bytes)
        self._held += 1
        self._held_bytes += size_bytes
        self._waiting.append(one)
        self._something.set()
        return one

    async def run(self) -> None:
        """Commit until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._lanes):
                tasks.create_task(self._lane())
            tasks.create_task(self._lose_patience())

    async def _lane(self) -> None:
        while True:
            await self._something.wait()
            batch = self._take()
            if not batch:
                self._something.clear()
                continue
            self._under_way.update(batch)
            try:
                await self._through(batch)
            finally:
                self._under_way.difference_update(batch)
                self._forget(batch)

    def _take(self) -> list[_Held[Op, Result]]:
        batch: list[_Held[Op, Result]] = []
        now_s = asyncio.get_running_loop().time()
        size_bytes = 0
        while self._waiting and len(batch) < self._bounds.batch:
            one = self._waiting[0]
            size_bytes += one.size_bytes
            if batch and size_bytes > self._bounds.batch_bytes:
                break
            self._waiting.popleft()
            if one.future.done():  # its caller is gone, and nothing of it has begun
                self._forget([one])
                continue
            one.since_s = now_s
            batch.append(one)
        return batch

    def _forget(self, some: Sequence[_Held[Op, Result]]) -> None:
        self._held -= len(some)
        self._held_bytes -= sum(one.size_bytes for one in some)

    async def _through(self, batch: Sequence[_Held[Op, Result]]) -> None:
        try:
            results = await self._commit([one.op for one in batch])
        except asyncio.CancelledError:
            for one in batch:
                one.future.cancel()
            raise
        except Exception as exc:
            results = [exc] * len(batch)
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                one.fail(result)
            elif not one.future.done():
                one.future.set_result(result)

    async def _lose_patience(self) -> None:
        """Answer those that have waited for too long: one look for all costs less than a timer for each."""
        patience_s = self._bounds.patience_s
        while True:
            await asyncio.sleep(patience_s / _LOOKS_PER_PATIENCE)
            before_s = asyncio.get_running_loop().time() - patience_s
            while self._waiting and self._waiting[0].since_s <= before_s:
                one = self._waiting.popleft()
                self._forget([one])
                one.fail(
                    LedgerUnavailable(
                        f"The ledger did not come to it within {patience_s:g} s. Nothing was written. Try again.",
                        reason="it hangs",
                    )
                )
            for one in [one for one in self._under_way if one.since_s <= before_s]:
                one.fail(
                    LedgerUnavailable(
                        f"The ledger did not answer within {patience_s:g} s. Whether it was written is unknown: "
                        "with an idempotency key, trying again is safe.",
                        reason="it hangs",
                    )
                )
