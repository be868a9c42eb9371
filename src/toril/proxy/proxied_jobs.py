"""Reads jobs of the async proxy by their id: state and response, without the request that they carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.ports.jobs import Cancels
from toril.core.ports import Now
from toril.proxy.ports import KeptRequest
from toril.proxy.rules.proxied_job import RESPONSE_FIELD, ProxiedJob, Status, candidates
from toril.redis.resp import pack

_KEPT = ("data", RESPONSE_FIELD.decode(), "timestamp", "processedOn", "atm")
_FIELDS = ("name", "timestamp", "finishedOn", "failedReason", "atm", "returnvalue")


class BullProxiedJobs:
    """The jobs of some queues, for as long as they are kept.

    Args:
        scripts: for their connections; answers may be large.
        prefix: BullMQ's.
        queues: of the upstreams.
        cancels: removes jobs.
        retention_s: how long an ended job is known, to the millisecond; it may be deleted later.
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
        """Return the job; None if there is none, or its time is over."""
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
            # With attempts made it waits for the next one; a job that was given back at a shutdown has made none.
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
        """Return the JSON of the recorded response; None if there is none."""
        keys = QueueKeys(self._prefix, job.queue)
        (stored,) = await self._pipeline(keys, [pack("HGET", keys.key(job.id), RESPONSE_FIELD)])
        response: bytes | None = stored
        return response

    async def kept(self, job: ProxiedJob) -> KeptRequest | None:
        """Return all that is stored of a job; None if it is gone."""
        keys = QueueKeys(self._prefix, job.queue)
        (values,) = await self._pipeline(keys, [pack("HMGET", keys.key(job.id), *_KEPT)])
        data, response, timestamp, started, attempts = values
        if timestamp is None:
            return None
        return KeptRequest(data or b"", response, *(_whole(text) for text in (timestamp, started, attempts)))

    async def had_ended(self, job_id: str, callbacks: str) -> bool:
        """Return True if it had completed or failed: BullMQ notes that at its parent, the job of its callback."""
        keys = QueueKeys(self._prefix, callbacks)
        completed, failed = keys.keys(f"{job_id}:processed", f"{job_id}:failed")
        (found,) = await self._pipeline(keys, [pack("EXISTS", completed, failed)])
        return bool(found)

    async def cancel(self, job: ProxiedJob) -> bool:
        """Remove a job in any state; return False if it is gone already."""
        return await self._cancels.cancel(job.queue, job.id)

    async def _pipeline(self, keys: QueueKeys, commands: list[bytes]) -> list[Any]:
        return await self._scripts.read(keys.prefix, *commands)


def _whole(stored: bytes | None) -> int:
    return int(stored) if stored is not None and stored.isdigit() else 0
