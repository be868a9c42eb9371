"""Flows: trees of jobs, in which a parent waits for its children. Added all or none, read back as a tree.

BullMQ's FlowProducer in one MULTI/EXEC: a parent by `addParentJob`, before its children, which name it. Called by
`toril.gateway`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from toril.bull.inspector import Inspector
from toril.bull.job_actions import JobActions
from toril.bull.keys import QueueKeys
from toril.bull.producer import Producer, added_id
from toril.bull.scripts import Script, Scripts
from toril.core.errors import InvalidRequest, JobNotFound
from toril.core.flow import AddedJob, Depth, FlowJob, FlowTree

_MOST_BYTES = 32 * 2**20


class Flows:
    """Adds and reads flows."""

    def __init__(
        self, scripts: Scripts, producer: Producer, inspector: Inspector, actions: JobActions, prefix: str
    ) -> None:
        self._scripts = scripts
        self._producer = producer
        self._inspector = inspector
        self._actions = actions
        self._prefix = prefix

    async def add(self, jobs: Sequence[FlowJob], timestamp_ms: int) -> list[AddedJob]:
        """Add trees of jobs, all of them or none; every job has an id of its own by then.

        Raises:
            InvalidRequest: on a cluster, queues whose keys are on different nodes.
        """
        calls: list[tuple[Script, bytes]] = []
        added = [self._plan(job, None, calls, timestamp_ms) for job in jobs]
        prefixes = {QueueKeys(self._prefix, queue).prefix for queue in _queues(jobs)}
        if len({self._scripts.links.group(prefix) for prefix in prefixes}) > 1:
            raise InvalidRequest("On a Redis Cluster all queues of a flow need the same hash tag", field="queueName")
        for queue in _queues(jobs):
            await self._producer.meet(queue)
        self._scripts.touched |= prefixes
        for reply in await self._scripts.transaction(min(prefixes), calls):
            added_id(reply)
        return added

    def _plan(
        self, job: FlowJob, parent: AddedJob | None, calls: list[tuple[Script, bytes]], timestamp_ms: int
    ) -> AddedJob:
        placed = AddedJob(job, f"{self._prefix}:{job.queueName}", timestamp_ms, parent, [])
        calls.append(self._producer.packed_in_flow(placed, timestamp_ms))
        placed.children.extend(self._plan(child, placed, calls, timestamp_ms) for child in job.children)
        return placed

    async def read(self, queue: str, job_id: str, depth: Depth) -> FlowTree:
        """A job with its children, and theirs, as deep and as many of each as asked for.

        Raises:
            JobNotFound: there is no such job.
            InvalidRequest: the tree is too large to be read at once.
        """
        return await self._read(queue, job_id, depth, [_MOST_BYTES])

    async def _read(self, queue: str, job_id: str, depth: Depth, left: list[int]) -> FlowTree:
        """`left` has how many bytes may still be read."""
        fields = await self._inspector.get(queue, job_id)
        if fields is None:
            raise JobNotFound
        left[0] -= sum(len(value) for value in fields.values())
        if left[0] < 0:
            text = f"The flow is larger than {_MOST_BYTES // 2**20} MB; ask for less depth, or fewer children"
            raise InvalidRequest(text, field="depth")
        tree = FlowTree(queue, job_id, fields, [])
        if depth.levels <= 1 or not depth.sees(queue):
            return tree
        keys = await self._actions.children(queue, job_id)
        below = msgspec.structs.replace(depth, levels=depth.levels - 1)
        for key in list(dict.fromkeys(keys))[: depth.max_children]:
            child = self._split(key)
            if child is None or not depth.sees(child[0]):
                continue
            try:
                tree.children.append(await self._read(*child, below, left))
            except JobNotFound:  # it has removed itself
                continue
        return tree

    def _split(self, key: str) -> tuple[str, str] | None:
        """The queue and the id in a job's key; None for a queue under another prefix."""
        prefix = f"{self._prefix}:"
        if not key.startswith(prefix):
            return None
        queue, colon, job_id = key.removeprefix(prefix).partition(":")
        return (queue, job_id) if colon else None


def _queues(jobs: Sequence[FlowJob]) -> set[str]:
    return {name for job in jobs for name in job.queues()}
