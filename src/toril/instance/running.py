"""Running an instance during a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from toril.config.settings import Settings
from toril.core.errors import StoreError
from toril.delivery.ledger_recoverer import Recovered
from toril.instance.instance import Instance


async def recover(settings: Settings) -> Recovered:
    """Add the jobs of the ledger that the targets' queues do not have, once; consumes nothing.

    Raises:
        StoreUnavailable: Redis or the ledger was not there in time.
    """
    recovered: list[Recovered] = []
    failure: list[StoreError] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            instance = Instance(settings, tasks)
            try:
                recovered.append(await instance.recover())
            except StoreError as exc:
                failure.append(exc)
            tasks.create_task(_stop())
    except* _StoppedError:
        pass
    if failure:
        raise failure[0]
    return recovered[0]


class _StoppedError(Exception):
    """The instance was asked to end."""


@asynccontextmanager
async def running(instance: Instance) -> AsyncIterator[Instance]:
    """Run an instance during a block. The caller drains it.

    What the block raises is raised as it is, unless a task of the instance has failed too.
    """
    failure: BaseException | None = None
    try:
        async with instance.tasks:
            instance.start()
            try:
                yield instance
            except BaseException as exc:
                failure = exc
                raise
            instance.tasks.create_task(_stop())
    except* _StoppedError:
        pass
    except* BaseException as group:
        if failure is None or group.exceptions != (failure,):
            raise
    if failure is not None:
        raise failure


async def _stop() -> None:
    raise _StoppedError
