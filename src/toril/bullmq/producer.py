"""Adds jobs by BullMQ's scripts on the shared connection."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from toril.bullmq.groups.room import ReservedRoom, free_room, reserve_room, take_room, waits_in
from toril.bullmq.job_options import shortened
from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.groups import FULL
from toril.bullmq.lua.queue_script import QueueScript
from toril.bullmq.lua.scripts import Scripts, refused
from toril.bullmq.rules.flow import AddedJob
from toril.bullmq.rules.job import ON_FAILURE, JobSpec
from toril.core.errors import GroupFull, StoreError
from toril.core.metrics import JOBS_ADDED, UNMETERED
from toril.core.ports import Meter
from toril.redis.clock import RedisClock
from toril.redis.resp import pack

_pack = msgspec.msgpack.Encoder().encode
# In place of the fourth argument, for jobs that were found to have room, or need none.
_UNBOUNDED = b"unbounded"
_NO_OPTIONS = _pack({"attempts": 0})
# Four arguments: packed job, data, packed options, timestamp.
_ARGUMENTS = b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"


class Producer:
    """Adds jobs to any queue. Caches parts of the calls of `cache` queues, and calls `noting` with each new queue.

    `clock`, to be set before the first job, is that of Redis. It is known from the first connection on, so a job that
    waited for that gets its time anew.
    """

    def __init__(
        self,
        scripts: Scripts,
        prefix: str,
        version: str,
        cache: int = 1000,
        noting: Callable[[str], None] = lambda _: None,
        meter: Meter = UNMETERED,
    ) -> None:
        self._meter = meter
        self.clock: RedisClock | None = None
        self._noting = noting
        self._scripts = scripts
        self._prefix = prefix
        self._version = version
        self._queues: OrderedDict[str, _AddCalls] = OrderedDict()
        self._cache = cache

    async def add(
        self, queue: str, jobs: Sequence[JobSpec], now_ms: int, *, again: bool = False, bounded: bool = True
    ) -> list[bytes]:
        """Add jobs in order, several in one transaction; return their ids.

        The id of a job that is dropped as a duplicate is that of the existing job.
        Jobs that may have been added before (`again`) are not counted. Those that are not `bounded` are added to full
        groups, too.
        """
        if not jobs:
            return []
        known = self._met(queue)
        if known is None:  # a queue is met when Redis has been reached, so its clock is known from then on
            now_ms = await self.known_ms(queue, now_ms)
            known = await self.meet(queue)
        if len(jobs) == 1:
            script, packed = known.packed(jobs[0], now_ms, b"" if bounded else _UNBOUNDED)
            ids = [added_id(await self._scripts.run(known.prefix, script, packed))]
        else:
            room = await self.reserve_room(queue, jobs) if bounded else None
            calls = [known.packed(job, now_ms, _UNBOUNDED) for job in jobs]
            if room is not None:
                calls.append(room.release)
            replies = await self._scripts.transaction(known.prefix, calls)
            ids = [added_id(reply) for reply in replies[: len(jobs)]]
        if not again:
            self._meter.count(JOBS_ADDED, known.labels, len(ids))
        return ids

    async def known_ms(self, queue: str, now_ms: int) -> int:
        """Return a time for a job of this queue by the clock of Redis, where the one given is that of this machine."""
        if self.clock is None or self.clock.measured:
            return now_ms
        await self._scripts.links.of(QueueKeys(self._prefix, queue).prefix).up()
        return int(self.clock() * 1000)

    async def take_room(self, queue: str, group: str, job_id: str) -> None:
        """Take room for a job that is added later, and is not `bounded` then. Raises `GroupFull`."""
        await take_room(self._scripts, QueueKeys(self._prefix, queue), group, job_id)

    async def free_room(self, queue: str, group: str, job_id: str) -> None:
        """Free the room of a job that will not be added."""
        await free_room(self._scripts, QueueKeys(self._prefix, queue), group, job_id)

    async def reserve_room(self, queue: str, jobs: Sequence[JobSpec]) -> ReservedRoom | None:
        """Take room for these jobs in their groups, or refuse them all; return None where they have no group."""
        groups = _groups_of(jobs)
        return await reserve_room(self._scripts, QueueKeys(self._prefix, queue), groups) if groups else None

    def count(self, queue: str) -> None:
        """Count a job that was added to this queue in another way, with a flow."""
        self._meter.count(JOBS_ADDED, (queue,))

    async def meet(self, queue: str) -> _AddCalls:
        """Return the add calls of a queue. The first time, write the library's version to its meta hash as BullMQ."""
        known = self._met(queue)
        if known is not None:
            return known
        known = _AddCalls(QueueKeys(self._prefix, queue), self._scripts)
        link = self._scripts.links.of(known.prefix)
        await link.up()
        # It is sent in one write with the add that follows; its reply is not needed.
        link.leave(pack("HSETNX", known.meta, "version", self._version))
        self._noting(queue)
        self._queues[queue] = known
        if len(self._queues) > self._cache:
            self._queues.popitem(last=False)
        return known

    def _met(self, queue: str) -> _AddCalls | None:
        known = self._queues.get(queue)
        if known is not None:
            self._queues.move_to_end(queue)
        return known

    def forget(self, queue: str) -> None:
        """Drop the cached calls of a queue that was removed."""
        self._queues.pop(queue, None)

    def packed_in_flow(self, placed: AddedJob) -> tuple[QueueScript, bytes]:
        """Return the call that adds a job of a flow."""
        queue = _AddCalls(QueueKeys(self._prefix, placed.job.queueName), self._scripts)
        return queue.packed_in_flow(placed)


def _groups_of(jobs: Sequence[JobSpec]) -> Counter[str]:
    return Counter(name for job in jobs if (name := waits_in(job)) is not None)


def added_id(reply: object) -> bytes:
    """Return the job id in the reply of an add script.

    Raises:
        StoreError: the reply is an error.
        GroupFull: the group of the job may have no more waiting ones.
    """
    if isinstance(reply, bytes):
        return reply
    if isinstance(reply, StoreError):
        raise reply
    if reply == FULL:
        raise GroupFull
    if isinstance(reply, int):
        raise refused(reply, b"")
    raise StoreError(f"BullMQ's add script returned {reply!r}")


class _AddCalls:
    """The parts of one queue's add calls that never change, packed when the first job of their kind is added."""

    __slots__ = ("_heads", "_keys", "_prefix", "_scripts", "labels", "meta", "prefix")

    def __init__(self, keys: QueueKeys, scripts: Scripts) -> None:
        self._scripts = scripts
        self._keys = keys
        self.labels = (keys.name,)
        self.prefix = keys.prefix
        self._prefix = keys.prefix.decode()
        self.meta = keys.key("meta")
        self._heads: dict[QueueScript, bytes] = {}

    def packed_in_flow(self, placed: AddedJob) -> tuple[QueueScript, bytes]:
        """Return the call that adds a job of a flow. It is packed as a whole: this is no hot path."""
        job, parent, timestamp_ms = placed.job, placed.parent, placed.timestamp_ms
        options: dict[str, Any] = job.opts.as_shown() if job.opts is not None else {"attempts": 0}
        shown: tuple[str | None, str | None, dict[str, Any] | None] = (None, None, None)
        if parent is not None:
            options["parent"] = {"id": parent.id, "queue": parent.qualified}
            # BullMQ reads from here what the failure of this job does to its parent; Node writes it to both places.
            on_failure = shortened({name: True for name in ON_FAILURE if options.get(name)})
            named = {"id": parent.id, "queueKey": parent.qualified, **on_failure}
            shown = (parent.key, parent.dependencies_key, named)
        fields = _pack((self._prefix, placed.id, job.name, timestamp_ms, *shown, None, self._dedup_key(options)))
        arguments = (fields, bytes(job.data), _pack(shortened(options)))
        if job.children:
            return self._scripts.add_parent, self._scripts.add_parent.of(self._keys, *arguments)
        script, last = self._scripts.add_standard, b"%d" % timestamp_ms
        if job.opts is not None and job.opts.delay:
            script = self._scripts.add_delayed
        elif job.opts is not None and job.opts.group is not UNSET:
            script, last = self._scripts.add_to_group, _UNBOUNDED
        elif job.opts is not None and job.opts.priority is not UNSET:
            script = self._scripts.add_prioritized
        return script, self._head(script) + pack(*arguments, last).partition(b"\r\n")[2]

    def _head(self, script: QueueScript) -> bytes:
        head = self._heads.get(script)
        if head is None:
            head = self._heads[script] = script.head_of(self._keys, 4)
        return head

    def _dedup_key(self, options: Mapping[str, Any]) -> str | None:
        """Return the deduplication key of a job with these options; None without one."""
        deduplication = options.get("deduplication")
        return None if deduplication is None else f"{self._prefix}de:{deduplication['id']}"

    def packed(self, job: JobSpec, now_ms: int, bound: bytes = b"") -> tuple[QueueScript, bytes]:
        """Return the call that adds this job, created now or at the time that its options give.

        With `bound` as `_UNBOUNDED` also one whose group is full.
        """
        opts = job.opts
        timestamp_ms = job.timestamp_ms(now_ms)
        stamp = b"%d" % timestamp_ms
        script = self._scripts.add_standard
        if opts is None:
            options = _NO_OPTIONS
            fields = _pack((self._prefix, "", job.name, timestamp_ms, None, None, None, None, None))
        else:
            shown = opts.as_shown()
            dedup_key = self._dedup_key(shown)
            options = _pack(shortened(shown))
            custom_id = opts.jobId or ""
            fields = _pack((self._prefix, custom_id, job.name, timestamp_ms, None, None, None, None, dedup_key))
            # A delayed job keeps its priority for when its time comes.
            if opts.delay:
                script = self._scripts.add_delayed
            elif opts.group is not UNSET:
                script, stamp = self._scripts.add_to_group, bound
            elif opts.priority is not UNSET:
                script = self._scripts.add_prioritized
        data, head = bytes(job.data), self._head(script)
        packed = _ARGUMENTS % (
            head, len(fields), fields, len(data), data, len(options), options, len(stamp), stamp,
        )  # fmt: skip
        return script, packed
