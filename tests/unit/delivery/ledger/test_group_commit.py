"""What waits for a commit is bounded, and who waits is told what happened."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from toril.core.errors import LedgerUnavailable
from toril.delivery.ledger.group_commit import Bounds, GroupCommit


class Disk:
    """Commits what it is given, when it is let; an operation is a text, and its size is the text's length."""

    def __init__(self, **bounds: float) -> None:
        self.batches: list[list[str]] = []
        self.free = asyncio.Event()
        self.group = GroupCommit(self._commit, size=len, bounds=Bounds(**bounds))  # type: ignore[arg-type]

    async def _commit(self, batch: Sequence[str]) -> list[str | Exception]:
        self.batches.append(list(batch))
        await self.free.wait()
        return [op.upper() for op in batch]

    async def begun(self) -> None:
        """Wait until a batch is under way."""
        while not self.batches:
            await asyncio.sleep(0)


@asynccontextmanager
async def hanging(**bounds: float) -> AsyncIterator[Disk]:
    """A disk that hangs with a batch of one, for the length of a block."""
    disk = Disk(**bounds)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(disk.group.run())
        first = tasks.create_task(disk.group.submit_all(["first"]))
        await disk.begun()
        yield disk
        disk.free.set()
        await first
        running.cancel()


def refused(results: Sequence[object]) -> list[bool]:
    return [isinstance(result, LedgerUnavailable) for result in results]


async def test_operations_that_arrive_during_a_commit_share_the_next_one() -> None:
    async with hanging() as disk, asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(disk.group.submit(name)) for name in ("a", "b", "c")]
        await asyncio.sleep(0)
        disk.free.set()
    assert disk.batches == [["first"], ["a", "b", "c"]]
    assert [task.result() for task in waiting] == ["A", "B", "C"]


async def test_operations_over_the_limit_are_refused_at_once_and_never_committed() -> None:
    async with hanging(waiting=3) as disk:
        waiting = asyncio.ensure_future(disk.group.submit_all(["a", "b", "c", "d"]))
        await asyncio.sleep(0)
        with pytest.raises(LedgerUnavailable, match="behind: 3 operations"):
            await disk.group.submit("e")
        disk.free.set()
        assert refused(await waiting) == [False, False, True, True]
        assert await disk.group.submit("f") == "F"  # there is room again
    assert disk.batches == [["first"], ["a", "b"], ["f"]]


async def test_waiting_bytes_are_limited_whatever_the_number_of_operations() -> None:
    async with hanging(waiting_bytes=100) as disk:
        waiting = asyncio.ensure_future(disk.group.submit_all(["x" * 90, "y" * 10, "z" * 5]))
        await asyncio.sleep(0)
        disk.free.set()
        assert refused(await waiting) == [False, True, False]
        assert await disk.group.submit("w" * 1000) == "W" * 1000  # larger than all that may wait, and alone


async def test_an_operation_that_waits_too_long_for_its_turn_fails_unwritten() -> None:
    async with hanging(patience_s=0.05) as disk:
        with pytest.raises(LedgerUnavailable, match="Nothing was written"):
            await disk.group.submit("late")
        disk.free.set()
        assert await disk.group.submit("next") == "NEXT"
    assert disk.batches == [["first"], ["next"]]


async def test_an_operation_without_an_answer_fails_as_unknown() -> None:
    async with hanging(patience_s=0.05) as disk:
        disk.batches.clear()
        disk.free.set()
        assert await disk.group.submit("a") == "A"
        disk.free.clear()
        with pytest.raises(LedgerUnavailable, match="unknown"):
            await disk.group.submit("b")
    assert disk.batches == [["a"], ["b"]]


async def test_a_hanging_operation_counts_until_its_commit_has_ended() -> None:
    async with hanging(patience_s=0.05, waiting=2) as disk:
        with pytest.raises(LedgerUnavailable, match="Nothing was written"):
            await disk.group.submit("late")
        results = await disk.group.submit_all(["a", "b"])
        assert refused(results) == [True, True]
        assert "behind" in str(results[1])


async def test_an_operation_of_a_caller_that_left_is_dropped() -> None:
    async with hanging() as disk:
        for submitted in (disk.group.submit("a"), disk.group.submit_all(["b", "c"])):
            task = asyncio.ensure_future(submitted)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        disk.free.set()
        assert await disk.group.submit("d") == "D"
    assert disk.batches == [["first"], ["d"]]


async def test_a_failed_commit_fails_each_operation_of_its_batch() -> None:
    async def fails(batch: Sequence[str]) -> list[str | Exception]:
        raise LedgerUnavailable("gone")

    group: GroupCommit[str, str] = GroupCommit(fails, size=len)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(group.run())
        assert [str(result) for result in await group.submit_all(["a", "b"])] == ["gone", "gone"]
        running.cancel()
