"""Waiting for the event that ends a job."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from toril.bullmq.rules.event import GAP, Event

Ending = Callable[[], Awaitable[Event | None]]
"""Waits for the event that ends a job, or a gap; None when the instance shuts down. See `EventFeed.ending`."""


async def end_of_job(ending: Ending, has_ended: Callable[[], Awaitable[bool]], wait_s: float) -> Event | None:
    """Return the event that ends a job.

    None if it does not come in time, where the instance shuts down, and where `has_ended` finds after a gap that the
    event is among those that were lost.
    """
    try:
        async with asyncio.timeout(wait_s):
            event = await ending()
            while event is not None and event.name == GAP:
                if await has_ended():
                    return None
                event = await ending()
            return event
    except TimeoutError:
        return None
