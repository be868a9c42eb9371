"""Adds jobs that were accepted before, elsewhere: a full group refuses none of them."""

from __future__ import annotations

from collections.abc import Sequence

from toril.bullmq.producer import Producer
from toril.bullmq.rules.job import JobSpec


class AcceptedJobs:
    """A `JobProducer` for jobs whose callers were told that they are accepted."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    async def add(self, queue: str, jobs: Sequence[JobSpec], now_ms: int, *, again: bool = False) -> list[bytes]:
        """As `JobProducer.add`, also to full groups."""
        return await self._producer.add(queue, jobs, now_ms, again=again, bounded=False)
