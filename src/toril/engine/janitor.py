"""Removes what is kept no longer: ended jobs of the async proxy, also where no other job ends and BullMQ would not,
and answers in the blob store whose job is gone.

Called by `toril.bootstrap`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from toril.core.blob import owner
from toril.core.errors import BlobsUnavailable, StoreError
from toril.core.ports import BlobStore, Now, QueueControl
from toril.core.proxy_ports import ProxiedJobs
from toril.engine.upstream_calls import FOLDER

log = structlog.get_logger(__name__)

_LONGEST_PAUSE_S = 60.0
_SHORTEST_PAUSE_S = 1.0
_AT_ONCE = 1000


class Leftovers:
    """Answers in a blob store whose job is gone.

    Args:
        blobs: where they are.
        jobs: says whether a job is there.
        retention_s: how old a body must be to be looked at: its job may not be there yet.
        now: the wall clock.
    """

    def __init__(self, blobs: BlobStore, jobs: ProxiedJobs, retention_s: float, now: Now) -> None:
        self._blobs = blobs
        self._jobs = jobs
        self._retention_s = retention_s
        self._now = now

    async def sweep(self) -> None:
        """Remove them."""
        try:
            before = self._now() - self._retention_s
            old = [blob.name async for blob in self._blobs.list(FOLDER) if blob.modified_at_s <= before]
            for name in old:
                job_id = owner(name)
                if job_id is not None and await self._jobs.find(job_id) is None:
                    await self._blobs.delete([name])
        except (StoreError, BlobsUnavailable) as exc:
            log.warning("proxy.bodies_not_swept", error=exc.message)


class ProxyJanitor:
    """Sweeps some queues.

    Args:
        control: removes ended jobs.
        queues: whose jobs.
        retention_s: how long an ended job is kept.
        bodies: where large answers are.
    """

    def __init__(self, control: QueueControl, queues: Sequence[str], retention_s: float, bodies: Leftovers) -> None:
        self._control = control
        self._queues = queues
        self._retention_s = retention_s
        self._bodies = bodies

    async def run(self) -> None:
        """Sweep until cancelled, ten times in the time that a job is kept, but not more often than once a second."""
        pause_s = min(max(self._retention_s / 10, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
        while True:
            await asyncio.sleep(pause_s)
            for queue in self._queues:
                await self.sweep(queue)
            await self._bodies.sweep()

    async def sweep(self, queue: str) -> None:
        """Remove the ended jobs of one queue that are kept no longer."""
        try:
            for state in ("completed", "failed"):
                grace_ms = round(self._retention_s * 1000)
                while len(await self._control.clean(queue, state, grace_ms, _AT_ONCE)) >= _AT_ONCE:
                    pass
        except StoreError as exc:
            log.debug("proxy.sweep_failed", queue=queue, error=exc.message)
