"""Walking through the jobs of a queue step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from toril.bullmq.rules.place import WalkPlace
from toril.core.stored_job import Fields


class Walked(Struct, frozen=True):
    """Consecutive jobs of one state: their ids, and their scores if they are in a sorted set."""

    state: str
    number: int
    ids: Sequence[bytes]
    scores: Sequence[bytes]
    first: int

    def place(self, index: int) -> WalkPlace:
        """Return the place after one of these jobs."""
        return WalkPlace(self.number, self.ids[index], self.scores[index] if self.scores else b"", self.first + index)


class JobScanner(Protocol):
    """Reads many jobs in short steps; writes nothing."""

    async def walk(
        self, queue: str, states: Sequence[str], place: WalkPlace, count: int, *, oldest_first: bool
    ) -> Walked | None:
        """Return up to `count` jobs after a place, all of one state; None at the end of the last state.

        A job that is in its state all the while is not passed over, as long as the lists (waiting, active) shift by no
        more than 5,000 jobs between two steps; it may come twice.
        """
        ...

    async def fields(self, queue: str, job_ids: Sequence[bytes], fields: Sequence[bytes]) -> list[Fields]:
        """Return these fields of the first of these jobs, as many as make about a megabyte, and at least one.

        There are none of a job that is gone.
        """
        ...

    async def jobs(self, queue: str, job_ids: Sequence[bytes], most_bytes: int) -> list[tuple[bytes, Fields]]:
        """Return the ids and hashes of the existing ones of these jobs, the first that make about so many bytes."""
        ...
