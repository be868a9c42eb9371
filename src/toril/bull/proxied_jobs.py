"""Reads jobs of the async proxy by their id: state and response, without the request that they carry.

Called by `toril.gateway` through a port.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.bull.keys import QueueKeys
from toril.bull.scripts import Scripts
from toril.bull.wire import pack
from toril.core.ports.proxy import Cancels
from toril.core.ports.shared import Now
from toril.core.proxied_job import RESPONSE_FIELD, ProxiedJob, Status, candidates

_FIELDS = ("name", "timestamp", "finishedOn", "failedReason", "atm", "returnvalue")


class BullProxiedJobs:
    """The jobs of some queues, for as long as they are kept.

    Args:
        scripts: for their connections; answers may be large.
        prefix: BullMQ's.
        queues: of the upstreams.
        cancels: removes jobs.
        retention_s: how long an ended job is known; a millisecond longer and it is not, whenever it is cleaned up.
        now: the wall clock.
    """

    def __init__(
        self, scripts: Scripts, prefix: str, queues: Sequence[str], cancels: Cancels, retention_s: float, now: Now
    ) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._queues = tuple(queues)
        self._cancels = cancels
        self._retention_s = retention_s
        self._now = now

    async def find(self, job_id: str) -> ProxiedJob | None:
        """What is known of a job; None where there is none, or it has been forgotten."""
        for queue in candidates(job_id, self._queues):
            found = await self._find_in(queue, job_id)
            if found is not None:
                return None if found.gone(self._now(), self._retention_s) else found
        return None

    async def _find_in(self, queue: str, job_id: str) -> ProxiedJob | None:
        keys = QueueKeys(self._prefix, queue)
        key = keys.key(job_id)
        values, locked = await self._pipeline(keys, [pack("HMGET", key, *_FIELDS), pack("EXISTS", key + b":lock")])
        name, timestamp, finished, reason, attempts, returned = values
        if timestamp is None:
            return None
        status: Status
        if finished is not None:
            status = "completed" if returned is not None else "failed"
        else:
            # With attempts made it waits for the next one; given back at a shutdown it has made none.
            status = "running" if locked or int(attempts or 0) else "queued"
        return ProxiedJob(
            id=job_id,
            queue=queue,
            status=status,
            name=(name or b"").decode(errors="replace"),
            finished_at_ms=int(finished or 0),
            error=(reason or b"").decode(errors="replace"),
        )

    async def response(self, job: ProxiedJob) -> bytes | None:
        """The recorded response's JSON; None where there is none."""
        keys = QueueKeys(self._prefix, job.queue)
        (stored,) = await self._pipeline(keys, [pack("HGET", keys.key(job.id), RESPONSE_FIELD)])
        response: bytes | None = stored
        return response

    async def had_ended(self, job_id: str, callbacks: str) -> bool:
        """Whether it had completed or failed: BullMQ notes that with its callback's job, the parent of the same id."""
        keys = QueueKeys(self._prefix, callbacks)
        completed, failed = keys.keys(f"{job_id}:processed", f"{job_id}:failed")
        (found,) = await self._pipeline(keys, [pack("EXISTS", completed, failed)])
        return bool(found)

    async def cancel(self, job: ProxiedJob) -> bool:
        """Remove it, whatever state it is in; False where it is gone already."""
        return await self._cancels.cancel(job.queue, job.id)

    async def _pipeline(self, keys: QueueKeys, commands: list[bytes]) -> list[Any]:
        return await self._scripts.read(keys.prefix, *commands)
