"""Removes what is kept no longer: ended jobs of the async proxy, also where no other job ends and BullMQ would not,
answers in the blob store whose job is gone, and cached ones whose time is over.

Called by `toril.bootstrap`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from toril.core.blob import owner
from toril.core.errors import BlobsUnavailable, StoreError
from toril.core.ports.bodies import BlobStore
from toril.core.ports.proxy import ProxiedJobs
from toril.core.ports.queues import QueueControl
from toril.core.ports.shared import Now
from toril.core.proxied_job import candidates
from toril.engine import spilled_cache, upstream_calls

log = structlog.get_logger(__name__)

_LONGEST_PAUSE_S = 60.0
_SHORTEST_PAUSE_S = 1.0
_AT_ONCE = 1000
OTHERS_S = 30 * 24 * 3600.0
"""How long an answer is left alone whose job is in none of our queues: other instances may share the store."""
CLOCKS_S = 60.0
"""How far the clocks of a store, of Redis and ours may be apart."""


class Leftovers:
    """Answers in a blob store whose job is gone.

    Args:
        blobs: where they are.
        jobs: says whether a job is there.
        queues: whose jobs those are.
        retention_s: how old a body must be to be looked at: its job may not be there yet.
        now: the wall clock.
    """

    def __init__(
        self, blobs: BlobStore, jobs: ProxiedJobs, queues: Sequence[str], retention_s: float, now: Now
    ) -> None:
        self._blobs = blobs
        self._jobs = jobs
        self._queues = queues
        self._retention_s = retention_s
        self._now = now

    async def names(self) -> list[str]:
        """What they are called."""
        before = self._now() - self._retention_s
        old = [blob async for blob in self._blobs.list(upstream_calls.FOLDER) if blob.modified_at_s <= before]
        return [blob.name for blob in old if await self._over(owner(blob.name), self._now() - blob.modified_at_s)]

    async def _over(self, job_id: str | None, age_s: float) -> bool:
        if job_id is None:
            return False
        if not candidates(job_id, self._queues):
            return age_s >= OTHERS_S
        return await self._jobs.find(job_id) is None


class StaleAnswers:
    """Cached answers whose time is over.

    Args:
        blobs: where they are.
        ttl_s: how long they count.
        now: the wall clock.
    """

    def __init__(self, blobs: BlobStore, ttl_s: float, now: Now) -> None:
        self._blobs = blobs
        self._ttl_s = ttl_s
        self._now = now

    async def names(self) -> list[str]:
        """What they are called."""
        before = self._now() - self._ttl_s - CLOCKS_S
        return [blob.name async for blob in self._blobs.list(spilled_cache.FOLDER) if blob.modified_at_s <= before]


class BodySweep:
    """Removes bodies that are needed no longer.

    Args:
        blobs: where they are.
        kinds: which those are.
    """

    def __init__(self, blobs: BlobStore, kinds: Sequence[Leftovers | StaleAnswers]) -> None:
        self._blobs = blobs
        self._kinds = kinds

    async def sweep(self) -> None:
        """Remove them."""
        for kind in self._kinds:
            try:
                for name in await kind.names():
                    await self._blobs.delete([name])
            except (StoreError, BlobsUnavailable) as exc:
                log.warning("proxy.bodies_not_swept", error=exc.message)


class ProxyJanitor:
    """Sweeps some queues.

    Args:
        control: removes ended jobs.
        queues: whose jobs.
        retention_s: how long an ended job is kept.
        bodies: removes large answers.
    """

    def __init__(self, control: QueueControl, queues: Sequence[str], retention_s: float, bodies: BodySweep) -> None:
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
