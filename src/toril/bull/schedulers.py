"""Job schedulers: set, read, removed; and kept going, as the job of one iteration produces the next one.

The arithmetic of cron patterns and intervals is the `bullmq` package's `JobScheduler`; only the scripts that it calls
go over our connection. Called by `toril.gateway` and `toril.bull.leases`.
"""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from bullmq.job import optsEncodeMap
from bullmq.job_scheduler import JobScheduler
from msgspec import UNSET

from toril.bull.inspector import fields_of
from toril.bull.keys import QueueKeys
from toril.bull.scripts import Scripts
from toril.bull.wire import pack
from toril.core.errors import InvalidRequest, JobRefused, StoreUnavailable
from toril.core.scheduler import SchedulerSpec
from toril.core.stored_job import Fields, read_options

_pack = msgspec.msgpack.Encoder().encode
log = structlog.get_logger(__name__)


class Schedulers:
    """Produces next iterations for any queue."""

    def __init__(self, scripts: Scripts, prefix: str, now_ms: Any) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._now_ms = now_ms

    def _scheduler(self, queue: str) -> Any:
        return JobScheduler(_Queue(QueueKeys(self._prefix, queue), self._scripts, self._now_ms))

    async def put(self, queue: str, scheduler_id: str, spec: SchedulerSpec) -> None:
        """Set a scheduler, in place of the one that was, and produce its next job.

        Raises:
            InvalidRequest: its pattern cannot be read, or there is no time left at which it would make a job.
            JobRefused: a job of an earlier iteration is in the way.
        """
        repeat = spec.as_repeat_options()
        template = spec.template
        name = scheduler_id if template.name is UNSET else template.name
        opts = {} if template.opts is None else template.opts.as_stored()
        data = msgspec.json.decode(template.data)
        try:
            job = await self._scheduler(queue).upsertJobScheduler(scheduler_id, repeat, name, data, opts)
        except ValueError as exc:
            raise InvalidRequest(f"Invalid pattern {repeat.get('pattern')}: {exc}"[:500], field="pattern") from exc
        if job is None:
            raise InvalidRequest("The scheduler would never make a job: endDate is over", field="endDate")

    async def get(self, queue: str, scheduler_id: str) -> tuple[Fields, int] | None:
        """A scheduler's hash, and when it makes the next job (milliseconds); None where there is none."""
        keys = QueueKeys(self._prefix, queue)
        reply = await self._scripts.call(self._scripts.get_scheduler, keys, keys.keys("repeat"), scheduler_id)
        # The script says {nil, nil} of one that is not there, which Lua makes an empty reply of. One with a hash but
        # no place in the set of schedulers (the rest of an obliterated queue) makes no job: it is not there either.
        if len(reply) < 2 or reply[1] is None:
            return None
        return fields_of(reply[0]), int(float(reply[1]))

    async def all(self, queue: str, start: int, end: int) -> tuple[list[tuple[str, Fields, int]], int]:
        """Schedulers from the first to the last (inclusive), the next to make a job first; and how many there are."""
        keys = QueueKeys(self._prefix, queue)
        link = self._scripts.links.of(keys.prefix)
        flat, count = await link.pipeline(
            [pack("ZRANGE", keys.key("repeat"), start, end, "WITHSCORES"), pack("ZCARD", keys.key("repeat"))]
        )
        ids = flat[::2]
        hashes = await link.pipeline([pack("HGETALL", keys.key(b"repeat:" + name)) for name in ids]) if ids else []
        return [
            (name.decode(errors="replace"), fields_of(fields), int(float(score)))
            for name, score, fields in zip(ids, flat[1::2], hashes, strict=True)
        ], count

    async def remove(self, queue: str, scheduler_id: str) -> bool:
        """Remove a scheduler and the job it has made for the next time; False where there is none."""
        keys = QueueKeys(self._prefix, queue)
        parts = keys.keys("repeat", "delayed", "events")
        script = self._scripts.remove_scheduler
        return bool(await self._scripts.call(script, keys, parts, scheduler_id, keys.prefix) == 0)

    async def produce_next(self, queue: str, job_id: bytes, fields: Fields) -> None:
        """Add the next iteration of the scheduler that produced this job.

        A pattern or a time zone that cannot be read is logged: the job at hand is still worked on, as in BullMQ.
        """
        shown = job_id.decode(errors="replace")
        try:
            opts = msgspec.json.decode(read_options(fields.get(b"opts", b"{}")).text)
            await self._scheduler(queue).upsertJobScheduler(
                fields[b"rjk"].decode(),
                opts.get("repeat"),
                fields.get(b"name", b"").decode(),
                msgspec.json.decode(fields.get(b"data") or b"{}"),
                opts,
                override=False,
                producer_id=shown,
            )
        except StoreUnavailable:
            raise
        except Exception as exc:
            log.error("scheduler.next_failed", queue=queue, job_id=shown, error=f"{type(exc).__name__}: {exc}")


class _Queue:
    """As much of a BullMQ queue as `JobScheduler` uses: itself as the backend, and a name."""

    def __init__(self, keys: QueueKeys, scripts: Scripts, now_ms: Any) -> None:
        self.backend = self
        self.qualifiedName = keys.qualified
        self._keys = keys
        self._scripts = scripts
        self._now_ms = now_ms

    async def addJobScheduler(  # noqa: N802, PLR0913, PLR0917 - as JobScheduler calls it
        self,
        scheduler_id: str,
        next_ms: int,
        data: str,
        template_opts: dict[str, Any],
        scheduler_opts: dict[str, Any],
        opts: dict[str, Any],
        producer_id: str | None,
    ) -> tuple[str, int]:
        """Write the scheduler and its next job: the job's id, and how long it is delayed."""
        keys = self._keys
        parts = keys.keys(
            "repeat", "delayed", "wait", "paused", "meta", "prioritized", "marker", "id", "events", "pc", "active"
        )
        reply = await self._scripts.call(
            self._scripts.add_scheduler,
            keys,
            parts,
            next_ms,
            _pack(scheduler_opts),
            scheduler_id,
            data,
            _pack(_encoded(template_opts)),
            _pack(_encoded(opts)),
            self._now_ms(),
            keys.prefix,
            "" if producer_id is None else keys.key(producer_id),
        )
        if isinstance(reply, int):
            raise JobRefused("A job of this scheduler is in the way: one that is waiting, active or finished")
        return reply[0].decode(), int(reply[1])

    async def updateJobSchedulerNextMillis(  # noqa: N802 - the name that JobScheduler calls
        self, scheduler_id: str, next_ms: int, data: str, opts: dict[str, Any], producer_id: str
    ) -> str | None:
        """Write the next iteration; its job id, or None where the scheduler is gone or has done so already."""
        keys = self._keys
        script = self._scripts.update_scheduler
        head = script.head(
            (*keys.keys("repeat", "delayed", "wait", "paused", "meta", "prioritized", "marker", "id", "events", "pc"),
             keys.key(producer_id), keys.key("active")), 7
        )  # fmt: skip
        arguments = pack(next_ms, scheduler_id, data, _pack(_encoded(opts)), self._now_ms(), keys.prefix, producer_id)
        job_id = await self._scripts.run(keys.prefix, script, head + arguments.partition(b"\r\n")[2])
        return job_id.decode() if isinstance(job_id, bytes) else None


def _encoded(opts: dict[str, Any]) -> dict[str, Any]:
    return {optsEncodeMap.get(key, key): value for key, value in opts.items()}
