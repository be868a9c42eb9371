"""Group commit: operations that arrive while a commit is under way share the next one.

Owns the queue of operations and the batches; the ledger decides what committing a batch does. A lone operation is
committed at once. A ledger that hangs must not fill the memory: waiting operations are limited in number, in bytes and
in time, and one over a limit is refused at once, with nothing written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from toril.core.errors import LedgerUnavailable
from toril.core.metrics import LEDGER_COMMIT_SECONDS, LEDGER_WAITING, UNMETERED
from toril.core.ports import Meter

Op = TypeVar("Op")
Result = TypeVar("Result")

Commit = Callable[[Sequence[Op]], Awaitable[Sequence[Result | Exception]]]
"""Commits a batch; return a result or an error for each, in order. An exception that it raises is that of all."""

_LOOKS_PER_PATIENCE = 10


class Bounds(Struct, frozen=True):
    """How much a batch holds, and how much may wait.

    `batch` operations or `batch_bytes` make a batch; a larger operation is committed alone. At most `waiting`
    operations and `waiting_bytes` are held, including those under way: 64 MiB is more than a second of 500 envelopes of
    100 KB each, so a short pause of the ledger refuses nothing. A lone operation of any size is taken. `patience_s` is
    how long an operation waits for its turn, and then again for the answer; HTTP callers rarely wait longer than twice
    that.
    """

    batch: int = 256
    batch_bytes: int = 16 * 2**20
    waiting: int = 10_000
    waiting_bytes: int = 64 * 2**20
    patience_s: float = 10.0


class _Pending(Generic[Op, Result]):
    """An operation with its size, the future of its result, and since when it waits for its turn or its answer."""

    __slots__ = ("future", "op", "since_s", "size_bytes")

    def __init__(self, op: Op, size_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self.op = op
        self.size_bytes = size_bytes
        self.since_s = loop.time()
        self.future: asyncio.Future[Result] = loop.create_future()

    def fail(self, exc: Exception) -> None:
        """Raise an error in the caller, unless it is gone or already has an answer."""
        if not self.future.done():
            self.future.set_exception(exc)

    def result(self) -> Result | Exception:
        """Return the result or the error, which must be known by now."""
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
        size: returns about how many bytes an operation takes.
        bounds: the limits of batches, and of what may wait.
        lanes: how many batches may be under way at the same time.

    `meter` measures commits and what waits, once it is set.
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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[_Pending[Op, Result]] = deque()
        self._under_way: set[_Pending[Op, Result]] = set()
        self._held = 0
        self._held_bytes = 0
        self._something = asyncio.Event()
        self.meter: Meter = UNMETERED

    async def submit(self, op: Op) -> Result:
        """Commit an operation, with others.

        Raises:
            LedgerUnavailable: too much waits already, or it has waited for too long; the message says whether it may
                have been written. If the caller is cancelled, an operation that is not under way yet is dropped.
        """
        return await self._begin(op).future

    async def submit_all(self, ops: Sequence[Op]) -> list[Result | Exception]:
        """Commit several, in as few batches as they fit in; return a result or an error for each, in order."""
        begun: list[_Pending[Op, Result] | LedgerUnavailable] = []
        for op in ops:
            try:
                begun.append(self._begin(op))
            except LedgerUnavailable as exc:
                begun.append(exc)
        futures = [one.future for one in begun if isinstance(one, _Pending)]
        try:
            if futures:
                await asyncio.wait(futures)
        except asyncio.CancelledError:
            for future in futures:
                future.cancel()
            raise
        return [one if isinstance(one, LedgerUnavailable) else one.result() for one in begun]

    def _begin(self, op: Op) -> _Pending[Op, Result]:
        size_bytes, bounds = self._size(op), self._bounds
        if self._held >= bounds.waiting or (self._held and self._held_bytes + size_bytes > bounds.waiting_bytes):
            raise LedgerUnavailable(
                f"The ledger is behind: {self._held} operations of {self._held_bytes} bytes wait for it. Nothing was "
                "written. Try again.",
                reason="too much waits for it",
            )
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        one: _Pending[Op, Result] = _Pending(op, size_bytes, self._loop)
        self._held += 1
        self.meter.count(LEDGER_WAITING)
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

    def _take(self) -> list[_Pending[Op, Result]]:
        batch: list[_Pending[Op, Result]] = []
        now_s = asyncio.get_running_loop().time()
        size_bytes = 0
        while self._waiting and len(batch) < self._bounds.batch:
            one = self._waiting[0]
            size_bytes += one.size_bytes
            if batch and size_bytes > self._bounds.batch_bytes:
                break
            self._waiting.popleft()
            if one.future.done():  # its caller is gone
                self._forget([one])
                continue
            one.since_s = now_s
            batch.append(one)
        return batch

    def _forget(self, some: Sequence[_Pending[Op, Result]]) -> None:
        self._held -= len(some)
        self.meter.count(LEDGER_WAITING, by=-len(some))
        self._held_bytes -= sum(one.size_bytes for one in some)

    async def _through(self, batch: Sequence[_Pending[Op, Result]]) -> None:
        began = asyncio.get_running_loop().time()
        try:
            results = await self._commit([one.op for one in batch])
        except asyncio.CancelledError:
            for one in batch:
                one.future.cancel()
            raise
        except Exception as exc:
            results = [exc] * len(batch)
        self.meter.observe(LEDGER_COMMIT_SECONDS, (), asyncio.get_running_loop().time() - began)
        for one, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                one.fail(result)
            elif not one.future.done():
                one.future.set_result(result)

    async def _lose_patience(self) -> None:
        """Fail operations that have waited for too long. One timer for all costs less than one for each."""
        patience_s = self._bounds.patience_s
        while True:
            await asyncio.sleep(patience_s / _LOOKS_PER_PATIENCE)
            before_s = asyncio.get_running_loop().time() - patience_s
            while self._waiting and self._waiting[0].since_s <= before_s:
                one = self._waiting.popleft()
                self._forget([one])
                one.fail(
                    LedgerUnavailable(
                        f"The ledger did not get to it within {patience_s:g} s. Nothing was written. Try again.",
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
