"""Tells which of many queues need a look of their own, so that idle ones cost next to nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol


class QueueSurvey(Protocol):
    """Surveys many queues in one exchange with their store, and changes nothing. Both methods raise `StoreError`."""

    async def with_jobs(self, queues: Sequence[str]) -> Mapping[str, float]:
        """Return which of the queues may have a job to lease, and when: 0 for now, or the wall-clock time."""
        ...

    async def to_check(self, queues: Sequence[str]) -> Collection[str]:
        """Return which of the queues the stalled check may have something to do in."""
        ...


class EveryQueue:
    """The survey of a store with few queues, which leaves none out."""

    async def with_jobs(self, queues: Sequence[str]) -> Mapping[str, float]:
        """Return all of the queues, for a look now."""
        return dict.fromkeys(queues, 0.0)

    async def to_check(self, queues: Sequence[str]) -> Collection[str]:
        """Return all of the queues."""
        return queues


EVERY_QUEUE = EveryQueue()
