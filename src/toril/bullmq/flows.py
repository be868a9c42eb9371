"""Flows: trees of jobs in which a parent waits for its children. All jobs of a flow are added, or none.

This is BullMQ's FlowProducer in one MULTI/EXEC: `addParentJob` adds a parent before its children, which name it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from toril.bullmq.inspector import Inspector
from toril.bullmq.job_actions import JobActions
from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.queue_script import QueueScript, bullmq_text
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.lua.waiting_lists import guarded
from toril.bullmq.producer import Producer, added_id
from toril.bullmq.rules.flow import AddedJob, Depth, FlowJob, FlowTree
from toril.core.errors import InvalidRequest, JobNotFound, JobRefused
from toril.redis.resp import pack

_MOST_BYTES = 32 * 2**20
# A dependency of each parent while its children are added. Without it, a child that has ended already would start the
# parent before the others are added. BullMQ 6 does the same in its scripts.
_GUARD = b"toril:adding"
# Removes the guard, and moves the parent to waiting if it has no other dependency.
_RELEASE = b"""
rcall('SREM', KEYS[2], ARGV[1])
moveParentToWaitIfNoPendingDependencies(ARGV[2], KEYS[2], KEYS[1], ARGV[3], ARGV[4])
"""


def _releasing() -> QueueScript:
    """Return a script that removes a parent's guard, made of the functions of BullMQ's `addParentJob`."""
    text = bullmq_text("addParentJob", 6)
    _, found, behind = text.partition(b"-- Includes\n")
    functions, end, _ = behind.partition(b"local function updateParentDepsIfNeeded(")
    if not (found and end):
        raise ValueError("BullMQ's addParentJob does not have the expected functions")
    return QueueScript(
        "releaseParent",
        guarded(b"local rcall = redis.call\n" + functions + _RELEASE),
        keys="{job} {job}:dependencies",
        arguments="guard qualified job_id now_ms",
        returns="nothing",
        moves=True,
    )


class Flows:
    """BullMQ's `FlowProducer`: adds and reads flows."""

    def __init__(
        self, scripts: Scripts, producer: Producer, inspector: Inspector, actions: JobActions, prefix: str
    ) -> None:
        self._scripts = scripts
        self._producer = producer
        self._inspector = inspector
        self._actions = actions
        self._prefix = prefix
        self._release = _releasing()

    async def add(self, jobs: Sequence[FlowJob], now_ms: int) -> list[AddedJob]:
        """Add trees of jobs, all or none; every job must have an id.

        The id of a job that is dropped as a duplicate is that of the existing job.

        Raises:
            InvalidRequest: on a cluster, the keys of the queues are on different nodes.
            JobRefused: a job with the id of a child exists, and has another parent.
        """
        if jobs:
            now_ms = await self._producer.known_ms(jobs[0].queueName, now_ms)
        trees = [self._placed(job, None, now_ms) for job in jobs]
        prefixes = {QueueKeys(self._prefix, queue).prefix for queue in _queues(jobs)}
        if len({self._scripts.links.group(prefix) for prefix in prefixes}) > 1:
            raise InvalidRequest("On a Redis Cluster all queues of a flow need the same hash tag", field="queueName")
        await self._check_parents(trees)
        rooms = []
        for queue in _queues(jobs):
            # Parents wait for their children first, which counts for no group.
            leaves = [job.spec() for tree in jobs for job in tree.all() if not job.children and job.queueName == queue]
            # Where a later queue refuses, the room of an earlier one is free again by itself.
            if (room := await self._producer.reserve_room(queue, leaves)) is not None:
                rooms.append(room)
            await self._producer.meet(queue)
        self._scripts.touched |= prefixes
        jobs_of_all = [job for tree in trees for job in tree.all()]
        parents = [job for job in jobs_of_all if job.children]
        calls = [
            *((None, pack("SADD", job.dependencies_key, _GUARD)) for job in parents),
            *(self._producer.packed_in_flow(job) for job in jobs_of_all),
            *((self._release, self._release_of(job, now_ms)) for job in parents),
            *(room.release for room in rooms),
        ]
        replies = await self._scripts.transaction(min(prefixes), calls)
        for job, reply in zip(jobs_of_all, replies[len(parents) :], strict=False):
            job.id = added_id(reply).decode(errors="replace")
            self._producer.count(job.job.queueName)
        return trees

    def _placed(self, job: FlowJob, parent: AddedJob | None, now_ms: int) -> AddedJob:
        """Return the job with its parent and its children."""
        timestamp_ms = job.spec().timestamp_ms(now_ms)
        placed = AddedJob(job, f"{self._prefix}:{job.queueName}", job.given_id, timestamp_ms, parent, [])
        placed.children.extend(self._placed(child, placed, now_ms) for child in job.children)
        return placed

    def _release_of(self, parent: AddedJob, now_ms: int) -> bytes:
        keys = (parent.key.encode(), parent.dependencies_key.encode())
        return self._release.packed(keys, _GUARD, parent.qualified, parent.id, now_ms)

    async def _check_parents(self, trees: Sequence[AddedJob]) -> None:
        """Refuse the trees if a child has another parent already: its new parent would wait for ever.

        Raises:
            JobRefused: names the child, but not its parent, whose queue the caller may have no right to see.
        """
        children = [job for tree in trees for job in tree.all() if job.parent is not None]
        if not children:
            return
        link = self._scripts.links.of(QueueKeys(self._prefix, children[0].job.queueName).prefix)
        parents = await link.pipeline([pack("HGET", job.key, "parentKey") for job in children])
        others = [
            (job, parent)
            for job, parent in zip(children, parents, strict=True)
            if parent is not None and job.parent is not None and parent != job.parent.key.encode()
        ]
        there = await link.pipeline([pack("EXISTS", parent) for _, parent in others]) if others else []
        for (job, _), exists in zip(others, there, strict=True):
            if exists:
                raise JobRefused(f"The job {job.id} of the queue {job.job.queueName} has another parent")

    async def read(self, queue: str, job_id: str, depth: Depth) -> FlowTree:
        """Return a job with its descendants, within the levels and numbers of children that `depth` allows.

        Raises:
            JobNotFound: there is no such job.
            InvalidRequest: the tree is too large to be read at once.
        """
        return await self._read(queue, job_id, depth, [_MOST_BYTES])

    async def _read(self, queue: str, job_id: str, depth: Depth, left: list[int]) -> FlowTree:
        """Return a job with its descendants. `left` holds how many bytes may still be read."""
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
            except JobNotFound:  # it was removed when it ended
                continue
        return tree

    def _split(self, key: str) -> tuple[str, str] | None:
        """Return the queue and the id in a job's key; None for a queue under another prefix."""
        prefix = f"{self._prefix}:"
        if not key.startswith(prefix):
            return None
        queue, colon, job_id = key.removeprefix(prefix).partition(":")
        return (queue, job_id) if colon else None


def _queues(jobs: Sequence[FlowJob]) -> set[str]:
    return {name for job in jobs for name in job.queues()}
