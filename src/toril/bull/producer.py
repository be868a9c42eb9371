"""Adds jobs: BullMQ's add scripts on the shared connection. Called by `toril.gateway`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from toril.bull.job_options import shortened
from toril.bull.keys import QueueKeys
from toril.bull.scripts import Script, Scripts, refused
from toril.bull.wire import pack
from toril.core.errors import StoreError
from toril.core.flow import AddedJob
from toril.core.job import ON_FAILURE, JobSpec

_pack = msgspec.msgpack.Encoder().encode
_NO_OPTIONS = _pack({"attempts": 0})
# Four arguments: packed job, data, packed options, timestamp.
_ARGUMENTS = b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"


class Producer:
    """Adds jobs to any queue. Keeps what it knows of the last `cache` queues, and tells `noting` of each new one."""

    def __init__(
        self,
        scripts: Scripts,
        prefix: str,
        version: str,
        cache: int = 1000,
        noting: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._noting = noting
        self._scripts = scripts
        self._prefix = prefix
        self._version = version
        self._queues: OrderedDict[str, _Queue] = OrderedDict()
        self._cache = cache

    async def add(self, queue: str, jobs: Sequence[JobSpec], now_ms: int) -> list[bytes]:
        """Add jobs in order, several of them in one transaction; returns their ids.

        A job that is dropped as a duplicate has the id of the one that is there already.
        """
        if not jobs:
            return []
        known = await self.meet(queue)
        if len(jobs) == 1:
            script, packed = known.packed(jobs[0], now_ms)
            return [added_id(await self._scripts.run(known.prefix, script, packed))]
        return [
            added_id(reply)
            for reply in await self._scripts.transaction(known.prefix, [known.packed(job, now_ms) for job in jobs])
        ]

    async def meet(self, queue: str) -> _Queue:
        """A queue's first add here leaves the library's version in its meta hash, as BullMQ's Queue does."""
        known = self._queues.get(queue)
        if known is not None:
            self._queues.move_to_end(queue)
            return known
        known = _Queue(QueueKeys(self._prefix, queue), self._scripts)
        link = self._scripts.links.of(known.prefix)
        await link.up()
        # It leaves in one write with the add that follows; nobody needs its reply.
        link.leave(pack("HSETNX", known.meta, "version", self._version))
        self._noting(queue)
        self._queues[queue] = known
        if len(self._queues) > self._cache:
            self._queues.popitem(last=False)
        return known

    def forget(self, queue: str) -> None:
        """The queue is gone; when it comes again, it is new."""
        self._queues.pop(queue, None)

    def packed_in_flow(self, placed: AddedJob) -> tuple[Script, bytes]:
        """The call that adds a job of a flow, at its place."""
        queue = _Queue(QueueKeys(self._prefix, placed.job.queueName), self._scripts)
        return queue.packed_in_flow(placed)


def added_id(reply: object) -> bytes:
    """The id that an add script returned.

    Raises:
        StoreError: it returned an error.
    """
    if isinstance(reply, bytes):
        return reply
    if isinstance(reply, StoreError):
        raise reply
    if isinstance(reply, int):
        raise refused(reply, b"")
    raise StoreError(f"BullMQ's add script returned {reply!r}")


class _Queue:
    """The unchanging parts of the add calls of one queue."""

    __slots__ = ("_delayed", "_keys", "_prefix", "_prioritized", "_scripts", "_standard", "meta", "prefix")

    def __init__(self, keys: QueueKeys, scripts: Scripts) -> None:
        self._scripts = scripts
        self._keys = keys
        self.prefix = keys.prefix
        self._prefix = keys.prefix.decode()
        self.meta = keys.key("meta")
        self._standard = scripts.add_standard.head(
            keys.keys("wait", "paused", "meta", "id", "completed", "delayed", "active", "events", "marker"), 4
        )
        self._delayed = scripts.add_delayed.head(keys.keys("marker", "meta", "id", "delayed", "completed", "events"), 4)
        self._prioritized = scripts.add_prioritized.head(
            keys.keys("marker", "meta", "id", "prioritized", "delayed", "completed", "active", "events", "pc"),
            4,
        )

    def packed_in_flow(self, placed: AddedJob) -> tuple[Script, bytes]:
        """The call that adds a job of a flow. Not a hot path: it is packed as a whole."""
        job, parent, timestamp_ms = placed.job, placed.parent, placed.timestamp_ms
        options: dict[str, Any] = job.opts.as_shown() if job.opts is not None else {"attempts": 0}
        shown: tuple[str | None, str | None, dict[str, Any] | None] = (None, None, None)
        if parent is not None:
            options["parent"] = {"id": parent.id, "queue": parent.qualified}
            # What becomes of the parent when this one fails is read from here; Node writes it to both places.
            on_failure = shortened({name: True for name in ON_FAILURE if options.get(name)})
            named = {"id": parent.id, "queueKey": parent.qualified, **on_failure}
            shown = (parent.key, parent.dependencies_key, named)
        fields = _pack((self._prefix, placed.id, job.name, timestamp_ms, *shown, None, self._dedup_key(options)))
        arguments = (fields, bytes(job.data), _pack(shortened(options)))
        if job.children:
            keys = self._keys.keys("meta", "id", "delayed", "waiting-children", "completed", "events")
            return self._scripts.add_parent, self._scripts.add_parent.packed(keys, *arguments)
        script, head = self._scripts.add_standard, self._standard
        if job.opts is not None and job.opts.delay:
            script, head = self._scripts.add_delayed, self._delayed
        elif job.opts is not None and job.opts.priority is not UNSET:
            script, head = self._scripts.add_prioritized, self._prioritized
        return script, head + pack(*arguments, timestamp_ms).partition(b"\r\n")[2]

    def _dedup_key(self, options: Mapping[str, Any]) -> str | None:
        """The key that a job with these options claims; None where it claims none."""
        deduplication = options.get("deduplication")
        return None if deduplication is None else f"{self._prefix}de:{deduplication['id']}"

    def packed(self, job: JobSpec, now_ms: int) -> tuple[Script, bytes]:
        """The call that adds this job, now or when its options say that it was made."""
        opts = job.opts
        timestamp_ms = job.timestamp_ms(now_ms)
        script, head = self._scripts.add_standard, self._standard
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
                script, head = self._scripts.add_delayed, self._delayed
            elif opts.priority is not UNSET:
                script, head = self._scripts.add_prioritized, self._prioritized
        data = bytes(job.data)
        stamp = b"%d" % timestamp_ms
        packed = _ARGUMENTS % (
            head, len(fields), fields, len(data), data, len(options), options, len(stamp), stamp,
        )  # fmt: skip
        return script, packed
