"""Sets, reads and removes job schedulers, and produces their next jobs.

`toril.bullmq.rules.repeat` decides when a job is due, or BullMQ's scripts if a scheduler has an interval. All changes
are made by BullMQ's scripts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from msgspec import UNSET

from toril.bullmq.job_options import shortened
from toril.bullmq.keys import QueueKeys, expected_types, is_wrong_type
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.rules.repeat import Due, Repeat, RepeatFault, options_of, read_repeat
from toril.bullmq.rules.scheduler import WRONG_TYPE, SchedulerSpec, StoredScheduler, hash_fault, scheduler_fault
from toril.bullmq.time_zones import read_zone
from toril.core.errors import InvalidRequest, JobRefused, WrongKeyType
from toril.core.stored_job import Fields
from toril.redis.links import KeyLink
from toril.redis.resp import ReplyError, fields_of, pack

_pack = msgspec.msgpack.Encoder().encode
# The repeat options that BullMQ keeps in the scheduler's hash.
_KNOWN = ("tz", "pattern", "every", "limit", "startDate", "endDate", "offset")
_QUEUES_AT_ONCE = 500
log = structlog.get_logger(__name__)


class Schedulers:
    """Job schedulers of any queue.

    `noting` is called with each queue that a scheduler is set for, since it may be new.
    """

    def __init__(
        self,
        scripts: Scripts,
        prefix: str,
        now_ms: Callable[[], int],
        noting: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._noting = noting
        self._scripts = scripts
        self._prefix = prefix
        self._now_ms = now_ms

    async def put(self, queue: str, scheduler_id: str, spec: SchedulerSpec) -> None:
        """Set or replace a scheduler, and produce its next job.

        Raises:
            InvalidRequest: its pattern cannot be read, or it would never make a job.
            WrongKeyType: one of its keys holds another type of value.
            JobRefused: a job of an earlier iteration is in the way.
        """
        keys, repeat = QueueKeys(self._prefix, queue), spec.repeat(scheduler_id, read_zone)
        # The clock of Redis is known from the first connection on.
        await self._scripts.links.of(keys.prefix).up()
        now_ms = self._now_ms()
        due = repeat.next(now_ms, 0)
        if due is None:
            field, why = ("endDate", "endDate is over") if repeat.end_ms else ("pattern", "it is never due")
            raise InvalidRequest(f"The scheduler would never make a job: {why}", field=field)
        template = spec.template
        name = scheduler_id if template.name is UNSET else template.name
        opts = {} if template.opts is None else template.opts.as_shown()
        stored = repeat.stored()
        known = {key: stored.get(key) for key in _KNOWN} | {"name": name}
        await self._check_types(keys, scheduler_id)
        reply = await self._scripts.call(
            self._scripts.add_scheduler,
            keys,
            due.at_ms,
            _pack({key: value for key, value in known.items() if value is not None}),
            scheduler_id,
            bytes(template.data),
            _pack(shortened(opts)),
            _pack(shortened(_next_options(opts, repeat, due, scheduler_id, now_ms))),
            now_ms,
            keys.prefix,
            "",
        )
        if isinstance(reply, int):
            raise JobRefused("A job of this scheduler is in the way: one that is waiting, active or finished")
        self._noting(queue)

    async def _check_types(self, keys: QueueKeys, scheduler_id: str) -> None:
        """Raise `WrongKeyType` for a key that is not BullMQ's: its script would stop half way there."""
        names, hash_ = keys.key("repeat"), keys.key(f"repeat:{scheduler_id}")
        kinds = await self._scripts.links.of(keys.prefix).pipeline([pack("TYPE", names), pack("TYPE", hash_)])
        for key, kind, wanted in zip((names, hash_), kinds, ("zset", "hash"), strict=True):
            found = kind.decode() if isinstance(kind, bytes) else kind
            if found not in (wanted, "none"):
                text = f"The Redis key {key.decode()} is a {found}; BullMQ keeps a {wanted} there"
                raise WrongKeyType(text)

    async def get(self, queue: str, scheduler_id: str) -> StoredScheduler | None:
        """Return a scheduler; None if there is none."""
        keys = QueueKeys(self._prefix, queue)
        try:
            reply = await self._scripts.call(self._scripts.get_scheduler, keys, scheduler_id)
        except ReplyError as exc:
            if not is_wrong_type(exc):
                raise
            with expected_types(queue):
                score = await self._scripts.links.of(keys.prefix).call("ZSCORE", keys.key("repeat"), scheduler_id)
            reply = (None, score)
        # For a missing scheduler the script returns {nil, nil}, which becomes an empty reply. A scheduler with a hash
        # that is not in the set of schedulers (left over of an obliterated queue) makes no jobs: it counts as missing.
        if len(reply) < 2 or reply[1] is None:
            return None
        (found,) = await self._with_jobs(keys, [scheduler_id.encode()], [reply[1]], [reply[0]])
        return found

    async def all(self, queue: str, start: int, end: int) -> tuple[list[StoredScheduler], int]:
        """Return schedulers from the first to the last (inclusive), the next to make a job first; and their number."""
        keys = QueueKeys(self._prefix, queue)
        link = self._scripts.links.of(keys.prefix)
        with expected_types(queue):
            flat, count = await link.pipeline(
                [pack("ZRANGE", keys.key("repeat"), start, end, "WITHSCORES"), pack("ZCARD", keys.key("repeat"))]
            )
        ids = flat[::2]
        hashes = await self._readable(keys, [pack("HGETALL", keys.key(b"repeat:" + name)) for name in ids])
        return await self._with_jobs(keys, ids, flat[1::2], hashes), count

    async def soonest(self, queues: Sequence[str], most: int) -> tuple[list[tuple[str, str]], int]:
        """Return those of all these queues that make a job next, and how many there are; raises as a read does."""
        counts = await self._of_queues(queues, lambda key: pack("ZCARD", key))
        some = [queue for queue in queues if counts.get(queue)]
        firsts = await self._of_queues(some, lambda key: pack("ZRANGE", key, 0, most - 1, "WITHSCORES"))
        found = [
            (float(score), queue, name.decode(errors="replace"))
            for queue, flat in firsts.items()
            for name, score in zip(flat[::2], flat[1::2], strict=True)
        ]
        return [(queue, name) for _, queue, name in sorted(found)[:most]], sum(counts.values())

    async def _of_queues(self, queues: Sequence[str], command: Callable[[bytes], bytes]) -> dict[str, Any]:
        """Return the replies to a command on the schedulers of each queue; none if they are not BullMQ's."""
        links = self._scripts.links
        groups: dict[int, list[str]] = {}
        for queue in queues:
            groups.setdefault(links.group(QueueKeys(self._prefix, queue).prefix), []).append(queue)
        found: dict[str, Any] = {}
        for group in groups.values():
            for at in range(0, len(group), _QUEUES_AT_ONCE):
                some = [QueueKeys(self._prefix, queue) for queue in group[at : at + _QUEUES_AT_ONCE]]
                replies = await self._readable(some[0], [command(keys.key("repeat")) for keys in some])
                found |= {keys.name: reply for keys, reply in zip(some, replies, strict=True) if reply is not None}
        return found

    async def _with_jobs(
        self, keys: QueueKeys, ids: Sequence[bytes], scores: Sequence[bytes], hashes: Sequence[list[bytes] | None]
    ) -> list[StoredScheduler]:
        """Return schedulers made of these parts and of the options of the next job of each."""
        due_ms = [int(float(score)) for score in scores]
        jobs = [keys.key(_job_id(name, at_ms)) for name, at_ms in zip(ids, due_ms, strict=True)]
        options = await self._readable(keys, [pack("HGET", job, "opts") for job in jobs])
        return [
            _stored(name, flat, at_ms, job_options)
            for name, flat, at_ms, job_options in zip(ids, hashes, due_ms, options, strict=True)
        ]

    async def _readable(self, keys: QueueKeys, commands: Sequence[bytes]) -> list[Any]:
        """Return the replies to commands that read a key each, with None for keys that hold another type of value."""
        link = self._scripts.links.of(keys.prefix)
        try:
            return await link.pipeline(commands) if commands else []
        except ReplyError as exc:
            if not is_wrong_type(exc):
                raise
        async with asyncio.TaskGroup() as tasks:
            replies = [tasks.create_task(self._reply(link, command)) for command in commands]
        return [reply.result() for reply in replies]

    @staticmethod
    async def _reply(link: KeyLink, command: bytes) -> Any:
        try:
            (reply,) = await link.pipeline([command])
        except ReplyError as exc:
            if not is_wrong_type(exc):
                raise
            return None
        return reply

    async def remove(self, queue: str, scheduler_id: str) -> bool:
        """Remove a scheduler and its next job; return False if there is none."""
        keys = QueueKeys(self._prefix, queue)
        with expected_types(queue):
            return bool(await self._scripts.call(self._scripts.remove_scheduler, keys, scheduler_id, keys.prefix) == 0)

    async def produce_next(self, queue: str, job_id: bytes, fields: Fields) -> str | None:
        """Add the next job of the scheduler that produced this job.

        Return None if it was added, here or by another worker, or if there is no next one. Otherwise return why the
        scheduler, as it is stored, cannot produce it; nothing is written then.
        """
        keys = QueueKeys(self._prefix, queue)
        scheduler = fields[b"rjk"]
        try:
            newest, fault = await self._look(keys, scheduler, job_id)
            if not newest:
                return None
            if fault is None:
                await self._update(keys, job_id, fields)
        except RepeatFault as exc:
            fault = str(exc)
        except ReplyError as exc:
            fault = WRONG_TYPE if is_wrong_type(exc) else exc.message
        if fault is not None:
            shown = {"scheduler": scheduler.decode(errors="replace"), "job_id": job_id.decode(errors="replace")}
            log.error("scheduler.next_failed", queue=queue, error=fault, **shown)
        return fault

    async def _look(self, keys: QueueKeys, scheduler: bytes, job_id: bytes) -> tuple[bool, str | None]:
        """Return True if this job is the newest of its scheduler, and why BullMQ's script would fail half way, or None.

        If the job is not the newest, the scheduler was removed or has produced another one.
        """
        stored = keys.key(b"repeat:" + scheduler)
        score, known = await self._scripts.links.of(keys.prefix).pipeline(
            [pack("ZSCORE", keys.key("repeat"), scheduler), pack("HMGET", stored, "name", "ic")]
        )
        if score is None or _job_id(scheduler, int(float(score))) != job_id:
            return False, None
        return True, hash_fault(*known)

    async def _update(self, keys: QueueKeys, job_id: bytes, fields: Fields) -> None:
        scheduler_id = fields[b"rjk"].decode(errors="replace")
        opts = options_of(fields.get(b"opts"))
        repeat = read_repeat(opts.get("repeat"), scheduler_id, read_zone)
        previous = opts.get("prevMillis")
        now_ms = self._now_ms()
        due = repeat.next(now_ms, int(previous) if isinstance(previous, int | float) else 0)
        if due is None:
            return
        next_options = _pack(shortened(_next_options(opts, repeat, due, scheduler_id, now_ms)))
        await self._scripts.call(
            self._scripts.update_scheduler,
            keys,
            due.at_ms,
            fields[b"rjk"],
            fields.get(b"data") or b"{}",
            next_options,
            now_ms,
            keys.prefix,
            job_id,
            job=job_id,
        )


def _stored(name: bytes, flat: Sequence[bytes] | None, at_ms: int, job_options: bytes | None) -> StoredScheduler:
    scheduler_id = name.decode(errors="replace")
    if flat is None:
        return StoredScheduler(scheduler_id, {}, at_ms, WRONG_TYPE)
    fields = fields_of(flat)
    return StoredScheduler(scheduler_id, fields, at_ms, scheduler_fault(scheduler_id, fields, job_options, read_zone))


def _job_id(scheduler: bytes, due_ms: int) -> bytes:
    return b"repeat:%b:%d" % (scheduler, due_ms)


def _next_options(opts: Mapping[str, Any], repeat: Repeat, due: Due, scheduler_id: str, now_ms: int) -> dict[str, Any]:
    """Return the options of the next job: those of this one, and its place in the schedule."""
    return {
        **opts,
        "repeat": repeat.stored(),
        "jobId": f"repeat:{scheduler_id}:{due.at_ms}",
        "delay": max(0, due.at_ms - now_ms),
        "timestamp": now_ms,
        "prevMillis": due.at_ms,
        "repeatJobKey": scheduler_id,
    }
