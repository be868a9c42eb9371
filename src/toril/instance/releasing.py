"""The groups of queues, with nothing of toril running but a connection to Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from toril.bullmq.groups.control import GroupControl
from toril.config.settings import Settings
from toril.instance.store import Store
from toril.telemetry.prometheus_meter import PrometheusMeter


class _StoppedError(Exception):
    """The block has ended."""


class _Deaf:
    """`Hearing` of what consumes nothing."""

    def cancelled(self, queue: str, job_id: bytes) -> None:
        """Do nothing: no job is in flight."""

    def limit_lifted(self, queue: str) -> None:
        """Do nothing: nothing waits."""


@asynccontextmanager
async def groups_of(settings: Settings) -> AsyncIterator[GroupControl]:
    """Connect to Redis during a block, which gets the groups of its queues.

    Raises:
        StoreUnavailable: Redis was not there in time.
    """
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            store = Store(settings, tasks, PrometheusMeter(1, time.time), "groups", _Deaf())
            tasks.create_task(store.links.run(), name="redis")
            try:
                await store.links.refresh()
                await store.links.check()
                yield store.groups
            except Exception as exc:
                failure = exc
            tasks.create_task(_stop())
    except* _StoppedError:
        pass
    if failure is not None:
        raise failure


async def _stop() -> None:
    raise _StoppedError
