"""Links to a real Valkey for the length of a block."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tests.support.valkey import ValkeyProcess
from toril.redis.connection import Link
from toril.redis.policy import RedisAddress, StorePolicy

QUICK = StorePolicy(
    connect_timeout_s=0.5, command_timeout_s=0.5, silence_timeout_s=1.5, backoff_first_s=0.01, backoff_max_s=0.05
)
"""Nothing here waits for a second that does not have to."""
PATIENT = StorePolicy(connect_timeout_s=5.0, command_timeout_s=10.0, silence_timeout_s=20.0)
"""For tests in which Redis answers: a busy machine may take its time."""


def address_of(valkey: ValkeyProcess) -> RedisAddress:
    """Where a test's Valkey is."""
    return RedisAddress(host="127.0.0.1", port=valkey.port)


def quick(**changes: Any) -> StorePolicy:
    """QUICK, with changes."""
    return msgspec.structs.replace(QUICK, **changes)


@asynccontextmanager
async def linked(link: Link) -> AsyncIterator[Link]:
    """Run a link during a block. It may not be connected yet when the block begins."""
    async with asyncio.TaskGroup() as tasks:
        runner = tasks.create_task(link.run(), name=f"redis:{link.name}")
        try:
            yield link
        finally:
            runner.cancel()


@asynccontextmanager
async def up(address: RedisAddress, policy: StorePolicy = QUICK, **options: Any) -> AsyncIterator[Link]:
    """A link that is up. What fails in the block is raised as it is, not wrapped by the link's task group."""
    failure: Exception | None = None
    async with linked(Link(address, policy, **options)) as link:
        try:
            await link.up(5.0)
            yield link
        except Exception as exc:
            failure = exc
    if failure is not None:
        raise failure


class CountedWrites:
    """Counts what a link writes from now on: one entry per write to its transport."""

    def __init__(self, link: Link) -> None:
        wire: Any = link._wire
        self._transport = wire._transport
        self.writes: list[bytes] = []
        wire._transport = self
        wire._descriptor = None  # what leaves before a turn ends passes by here too

    def write(self, data: bytes) -> None:
        """Part of asyncio.Transport."""
        self.writes.append(bytes(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def turn() -> None:
    """One turn of the event loop."""
    await asyncio.sleep(0)
