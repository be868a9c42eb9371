"""Keeps job schedulers going: the job of one iteration produces the next one.

The arithmetic of cron patterns and intervals is the `bullmq` package's `JobScheduler`; only its last step, the
script that writes the next iteration, goes over our connection. Called by `toril.bull.leases`.
"""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from bullmq.job import optsEncodeMap
from bullmq.job_scheduler import JobScheduler

from toril.bull.keys import QueueKeys
from toril.bull.scripts import Scripts
from toril.bull.wire import pack
from toril.core.errors import StoreUnavailable
from toril.core.stored_job import Fields, read_options

_pack = msgspec.msgpack.Encoder().encode
log = structlog.get_logger(__name__)


class Schedulers:
    """Produces next iterations for any queue."""

    def __init__(self, scripts: Scripts, prefix: str, now_ms: Any) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._now_ms = now_ms

    async def produce_next(self, queue: str, job_id: bytes, fields: Fields) -> None:
        """Add the next iteration of the scheduler that produced this job.

        A pattern or a time zone that cannot be read is logged: the job at hand is still worked on, as in BullMQ.
        """
        shown = job_id.decode(errors="replace")
        try:
            opts = msgspec.json.decode(read_options(fields.get(b"opts", b"{}")).text)
            scheduler = JobScheduler(_Queue(QueueKeys(self._prefix, queue), self._scripts, self._now_ms))
            await scheduler.upsertJobScheduler(
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
        encoded = {optsEncodeMap.get(key, key): value for key, value in opts.items()}
        arguments = pack(next_ms, scheduler_id, data, _pack(encoded), self._now_ms(), keys.prefix, producer_id)
        job_id = await self._scripts.run(keys.prefix, script, head + arguments.partition(b"\r\n")[2])
        return job_id.decode() if isinstance(job_id, bytes) else None
