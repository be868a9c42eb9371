"""Adds that are confirmed before a caller is told of them."""

from __future__ import annotations

from collections.abc import Sequence

from toril.bullmq.keys import QueueKeys
from toril.bullmq.ports.jobs import FlowStore, JobProducer
from toril.bullmq.rules.flow import AddedJob, Depth, FlowJob, FlowTree
from toril.bullmq.rules.job import JobSpec
from toril.redis.confirmations import Confirmations


class AcknowledgedProducer:
    """A `JobProducer` whose adds are confirmed."""

    def __init__(self, producer: JobProducer, confirmations: Confirmations, prefix: str) -> None:
        self._producer = producer
        self._confirmations = confirmations
        self._prefix = prefix

    async def add(self, queue: str, jobs: Sequence[JobSpec], now_ms: int, *, again: bool = False) -> list[bytes]:
        """As `JobProducer.add`. Raises `Unconfirmed` if the jobs may have been added, but could not be confirmed."""
        key = QueueKeys(self._prefix, queue).prefix
        return await self._confirmations.after(key, lambda: self._producer.add(queue, jobs, now_ms, again=again))


class AcknowledgedFlows:
    """A `FlowStore` whose adds are confirmed."""

    def __init__(self, flows: FlowStore, confirmations: Confirmations, prefix: str) -> None:
        self._flows = flows
        self._confirmations = confirmations
        self._prefix = prefix

    async def add(self, jobs: Sequence[FlowJob], now_ms: int) -> list[AddedJob]:
        """As `FlowStore.add`. Raises `Unconfirmed` if they may have been added, but could not be confirmed."""
        if not jobs:
            return []
        # All queues of a flow are at one node.
        key = QueueKeys(self._prefix, jobs[0].queueName).prefix
        return await self._confirmations.after(key, lambda: self._flows.add(jobs, now_ms))

    async def read(self, queue: str, job_id: str, depth: Depth) -> FlowTree:
        """As `FlowStore.read`."""
        return await self._flows.read(queue, job_id, depth)
