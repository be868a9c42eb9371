"""Waits for proxied jobs to end, and streams their states. All waits share one reader of events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from toril.bullmq.job_ends import Ending, end_of_job
from toril.bullmq.ports.jobs import EventFeed
from toril.bullmq.rules.event import GAP
from toril.proxy.ports import ProxiedJobs
from toril.proxy.rules.proxied_job import ProxiedJob
from toril.web.event_stream import before_heartbeat, event_stream, event_text

CANCELLED = "cancelled"
_LAST = ("completed", "failed", CANCELLED)


class ProxyWaits:
    """Waits for proxied jobs with the shared reader of BullMQ's events.

    Args:
        jobs: says what has become of a job.
        feed: says when to look.
    """

    def __init__(self, jobs: ProxiedJobs, feed: EventFeed) -> None:
        self._jobs = jobs
        self._feed = feed

    @asynccontextmanager
    async def listening(self, queue: str, job_id: str) -> AsyncIterator[Ending]:
        """Listen for a job's end during this block, also before the wait for it begins."""
        async with self._feed.ending(queue, job_id) as ending:
            yield ending

    async def ended(self, job_id: str, ending: Ending, wait_s: float) -> ProxiedJob | None:
        """Return the job as it is when it has ended, or the time is over; None if it is gone."""

        async def has_ended() -> bool:
            job = await self._jobs.find(job_id)
            return job is None or job.ended

        await end_of_job(ending, has_ended, wait_s)
        return await self._jobs.find(job_id)

    async def until_ended(self, job: ProxiedJob, wait_s: float) -> ProxiedJob | None:
        """Return the same for a job that has been read already."""
        if job.ended:
            return job
        async with self.listening(job.queue, job.id) as ending:
            found = await self._jobs.find(job.id)  # it may have ended before the listening began
            if found is None or found.ended:
                return found
            return await self.ended(job.id, ending, wait_s)

    async def states(self, job: ProxiedJob) -> AsyncGenerator[bytes, None]:
        """Yield Server-Sent Events: the JSON of the job now and whenever its status changes, until it ends."""
        async with self._feed.follow(job.queue, None) as follower:
            shown = ""

            async def following() -> bytes | None:
                nonlocal shown
                while shown not in _LAST:
                    if shown:
                        events = await before_heartbeat(follower.batch)
                        if events is None:
                            return b""
                        if not events:
                            return None  # the instance shuts down: the caller asks another one
                        if not any(event.job_id == job.id.encode() or event.name == GAP for event in events):
                            continue
                    found = await self._jobs.find(job.id)
                    status = CANCELLED if found is None else found.status
                    if status != shown:
                        shown = status
                        return event_text(status, _cancelled(job) if found is None else found.as_json())
                return None

            async for text in event_stream(None, following):
                yield text


def _cancelled(job: ProxiedJob) -> bytes:
    return b'{"id":"%b","status":"cancelled"}' % job.id.encode()
