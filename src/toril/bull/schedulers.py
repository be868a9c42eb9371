"""Job schedulers: set, read, removed; and kept going, as the job of one iteration produces the next one.

When a job is due is decided by `toril.core.repeat`, or for intervals by BullMQ's scripts, which make every change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from msgspec import UNSET

from toril.bull.job_options import shortened
from toril.bull.keys import QueueKeys
from toril.bull.scripts import Scripts
from toril.bull.wire import ReplyError, fields_of, pack
from toril.core.errors import InvalidRequest, JobRefused
from toril.core.repeat import Due, Repeat, RepeatFault, options_of, read_repeat
from toril.core.scheduler import SchedulerSpec, StoredScheduler, hash_fault
from toril.core.stored_job import Fields

_pack = msgspec.msgpack.Encoder().encode
# What of the repeat options BullMQ keeps in the scheduler's hash.
_KNOWN = ("tz", "pattern", "every", "limit", "startDate", "endDate", "offset")
log = structlog.get_logger(__name__)


class Schedulers:
    """Sets and reads job schedulers, and produces next iterations, for any queue.

    `noting` is told of each queue that a scheduler is set for: it may be new.
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
        """Set a scheduler, in place of the one that was, and produce its next job.

        Raises:
            InvalidRequest: its pattern cannot be read, or there is no time left at which it would make a job.
            JobRefused: a job of an earlier iteration is in the way.
        """
        repeat, now_ms = spec.repeat(scheduler_id), self._now_ms()
        due = repeat.next(now_ms, 0)
        if due is None:
            field, why = ("endDate", "endDate is over") if repeat.end_ms else ("pattern", "it is never due")
            raise InvalidRequest(f"The scheduler would never make a job: {why}", field=field)
        template = spec.template
        name = scheduler_id if template.name is UNSET else template.name
        opts = {} if template.opts is None else template.opts.as_shown()
        stored = repeat.stored()
        known = {key: stored.get(key) for key in _KNOWN} | {"name": name}
        keys = QueueKeys(self._prefix, queue)
        parts = keys.keys(
            "repeat", "delayed", "wait", "paused", "meta", "prioritized", "marker", "id", "events", "pc", "active"
        )
        reply = await self._scripts.call(
            self._scripts.add_scheduler,
            keys,
            parts,
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

    async def get(self, queue: str, scheduler_id: str) -> StoredScheduler | None:
        """A scheduler; None where there is none."""
        keys = QueueKeys(self._prefix, queue)
        reply = await self._scripts.call(self._scripts.get_scheduler, keys, keys.keys("repeat"), scheduler_id)
        # The script says {nil, nil} of one that is not there, which Lua makes an empty reply of. One with a hash but
        # no place in the set of schedulers (the rest of an obliterated queue) makes no job: it is not there either.
        if len(reply) < 2 or reply[1] is None:
            return None
        (found,) = await self._with_jobs(keys, [scheduler_id.encode()], [reply[1]], [reply[0]])
        return found

    async def all(self, queue: str, start: int, end: int) -> tuple[list[StoredScheduler], int]:
        """Schedulers from the first to the last (inclusive), the next to make a job first; and how many there are."""
        keys = QueueKeys(self._prefix, queue)
        link = self._scripts.links.of(keys.prefix)
        flat, count = await link.pipeline(
            [pack("ZRANGE", keys.key("repeat"), start, end, "WITHSCORES"), pack("ZCARD", keys.key("repeat"))]
        )
        ids = flat[::2]
        hashes = await link.pipeline([pack("HGETALL", keys.key(b"repeat:" + name)) for name in ids]) if ids else []
        return await self._with_jobs(keys, ids, flat[1::2], hashes), count

    async def _with_jobs(
        self, keys: QueueKeys, ids: Sequence[bytes], scores: Sequence[bytes], hashes: Sequence[list[bytes]]
    ) -> list[StoredScheduler]:
        """Put schedulers together, with the options of the job that is to produce the next one of each."""
        due_ms = [int(float(score)) for score in scores]
        asked = [pack("HGET", keys.key(_job_id(name, at_ms)), "opts") for name, at_ms in zip(ids, due_ms, strict=True)]
        options = await self._scripts.links.of(keys.prefix).pipeline(asked) if asked else []
        return [
            StoredScheduler(name.decode(errors="replace"), fields_of(fields), at_ms, job_options)
            for name, at_ms, fields, job_options in zip(ids, due_ms, hashes, options, strict=True)
        ]

    async def remove(self, queue: str, scheduler_id: str) -> bool:
        """Remove a scheduler and the job it has made for the next time; False where there is none."""
        keys = QueueKeys(self._prefix, queue)
        parts = keys.keys("repeat", "delayed", "events")
        script = self._scripts.remove_scheduler
        return bool(await self._scripts.call(script, keys, parts, scheduler_id, keys.prefix) == 0)

    async def produce_next(self, queue: str, job_id: bytes, fields: Fields) -> str | None:
        """Add the next iteration of the scheduler that produced this job.

        Returns why that is not possible as long as the scheduler is stored as it is; nothing is written then. None if
        it has been done, here or elsewhere, or where there is no next one.
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
            fault = exc.message
        if fault is not None:
            shown = {"scheduler": scheduler.decode(errors="replace"), "job_id": job_id.decode(errors="replace")}
            log.error("scheduler.next_failed", queue=queue, error=fault, **shown)
        return fault

    async def _look(self, keys: QueueKeys, scheduler: bytes, job_id: bytes) -> tuple[bool, str | None]:
        """Return whether this job is the newest of its scheduler, and at what BullMQ's script would fail half way.

        Where the job is not the newest, the scheduler is gone or goes on with another one.
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
        repeat = read_repeat(opts.get("repeat"), scheduler_id)
        previous = opts.get("prevMillis")
        now_ms = self._now_ms()
        due = repeat.next(now_ms, int(previous) if isinstance(previous, int | float) else 0)
        if due is None:
            return
        script = self._scripts.update_scheduler
        head = script.head(
            (*keys.keys("repeat", "delayed", "wait", "paused", "meta", "prioritized", "marker", "id", "events", "pc"),
             keys.key(job_id), keys.key("active")), 7
        )  # fmt: skip
        next_options = _pack(shortened(_next_options(opts, repeat, due, scheduler_id, now_ms)))
        arguments = pack(
            due.at_ms, fields[b"rjk"], fields.get(b"data") or b"{}", next_options, now_ms, keys.prefix, job_id
        )
        await self._scripts.run(keys.prefix, script, head + arguments.partition(b"\r\n")[2])


def _job_id(scheduler: bytes, due_ms: int) -> bytes:
    return b"repeat:%b:%d" % (scheduler, due_ms)


def _next_options(opts: Mapping[str, Any], repeat: Repeat, due: Due, scheduler_id: str, now_ms: int) -> dict[str, Any]:
    """Return the options of the next job: those of this one, and where it stands in the schedule."""
    return {
        **opts,
        "repeat": repeat.stored(),
        "jobId": f"repeat:{scheduler_id}:{due.at_ms}",
        "delay": max(0, due.at_ms - now_ms),
        "timestamp": now_ms,
        "prevMillis": due.at_ms,
        "repeatJobKey": scheduler_id,
    }
