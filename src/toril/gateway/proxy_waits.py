"""Waits for proxied jobs to end, and tells of their states as they change. All who wait share one reader of events.

Called by the async proxy's door and its jobs API.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from toril.core.event import GAP, Event
from toril.core.ports.jobs import EventFeed
from toril.core.ports.proxy import ProxiedJobs
from toril.core.proxied_job import ProxiedJob

_BEAT_S = 15.0
_BEAT = b":\n\n"
Ending = Callable[[], Awaitable[Event | None]]


class ProxyWaits:
    """Waits, over the shared reader of BullMQ's events.

    Args:
        jobs: says what has become of a job.
        feed: says when to look.
    """

    def __init__(self, jobs: ProxiedJobs, feed: EventFeed) -> None:
        self._jobs = jobs
        self._feed = feed

    @asynccontextmanager
    async def listening(self, queue: str, job_id: str) -> AsyncIterator[Ending]:
        """Hear of a job's end if it comes while this block lasts, also before anybody waits for it."""
        async with self._feed.ending(queue, job_id) as ending:
            yield ending

    async def ended(self, job_id: str, ending: Ending, wait_s: float) -> ProxiedJob | None:
        """The job as it is when it has ended, or the time is over; None where it is gone."""
        try:
            async with asyncio.timeout(wait_s):
                event = await ending()
                while event is not None and event.name == GAP:  # its end may be among what was lost
                    job = await self._jobs.find(job_id)
                    if job is None or job.ended:
                        return job
                    event = await ending()
        except TimeoutError:
            pass
        return await self._jobs.find(job_id)

    async def until_ended(self, job: ProxiedJob, wait_s: float) -> ProxiedJob | None:
        """The same for a job that is there already."""
        if job.ended:
            return job
        async with self.listening(job.queue, job.id) as ending:
            found = await self._jobs.find(job.id)  # it may have ended before anybody listened
            if found is None or found.ended:
                return found
            return await self.ended(job.id, ending, wait_s)

    async def states(self, job: ProxiedJob) -> AsyncGenerator[bytes, None]:
        """Server-Sent Events: the job's JSON now and whenever its status changes, to its end."""
        async with self._feed.follow(job.queue, None) as follower:
            shown = ""
            while True:
                found = await self._jobs.find(job.id)
                if found is None:
                    yield b'event: cancelled\ndata: {"id":"%b","status":"cancelled"}\n\n' % job.id.encode()
                    return
                if found.status != shown:
                    shown = found.status
                    yield b"event: %b\ndata: %b\n\n" % (shown.encode(), found.as_json())
                if found.ended:
                    return
                about_it = False
                while not about_it:
                    try:
                        async with asyncio.timeout(_BEAT_S):
                            events = await follower.batch()
                    except TimeoutError:
                        yield _BEAT
                        continue
                    if not events:
                        return  # the instance shuts down: the caller comes back
                    about_it = any(event.job_id == job.id.encode() or event.name == GAP for event in events)
