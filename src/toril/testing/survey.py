"""A `QueueSurvey` of lease stores in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from toril.core.ports import Now
from toril.engine.queue_survey import QueueSurvey
from toril.testing.leases import FakeLeaseStore


class FakeQueueSurvey:
    """Surveys the queues of these stores; `now` is their clock."""

    def __init__(self, stores: Mapping[str, FakeLeaseStore], now: Now) -> None:
        self._stores = stores
        self._now = now

    async def with_jobs(self, queues: Sequence[str]) -> Mapping[str, float]:
        """Return which of the queues have waiting or delayed jobs, and when the first one may start."""
        found: dict[str, float] = {}
        for queue in queues:
            store = self._stores[queue]
            first_s = 0.0 if store.waiting else min(store.delayed.values(), default=None)
            if first_s is not None:
                found[queue] = first_s if first_s > self._now() else 0.0
        return found

    async def to_check(self, queues: Sequence[str]) -> Collection[str]:
        """Return which of the queues have active jobs."""
        return [queue for queue in queues if self._stores[queue].active]


if TYPE_CHECKING:
    _: type[QueueSurvey] = FakeQueueSurvey
