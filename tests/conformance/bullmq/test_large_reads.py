"""Reading what may be large on a real Valkey: the same jobs as BullMQ's getJobs, in short replies, beside all else."""

import asyncio
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest
import redis

from tests.conformance.bullmq.links import PATIENT, address_of, linked
from tests.conformance.holding import held
from tests.conformance.worlds import RealWorld
from tests.support.valkey import ValkeyProcess
from toril.bullmq.flows import Flows
from toril.bullmq.inspector import Inspector
from toril.bullmq.job_actions import JobActions
from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.large_reads import REPLY_BYTES, LargeReads
from toril.bullmq.lua.queue_script import QueueScript, bullmq_text
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.rules.flow import Depth
from toril.core.errors import InvalidRequest
from toril.redis.connection import Link
from toril.redis.resp import fields_of


class Measured(Scripts):
    """Scripts that note how long each reply is."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.replies: list[int] = []

    async def call(self, script: QueueScript, queue: QueueKeys, *arguments: Any, **named: Any) -> Any:
        reply = await super().call(script, queue, *arguments, **named)
        self.replies.append(_length(reply))
        return reply


def _length(reply: Any) -> int:
    return sum(map(_length, reply)) if isinstance(reply, list) else len(reply)


@pytest.fixture
async def reading(valkey: ValkeyProcess) -> AsyncIterator[Measured]:
    """Another connection than the world's."""
    link = Link(address_of(valkey), PATIENT)
    async for up in held(linked(link)):
        await up.up(5.0)
        yield Measured(link)


def fill(store: redis.Redis, queue: str, count: int, size: int = 1, state: str = "wait") -> None:
    """Put jobs with so much data into a state: `j0` has been there longest."""
    with store.pipeline(transaction=False) as commands:
        for number in range(count):
            commands.hset(f"bull:{queue}:j{number}", mapping={"name": "n", "data": f'"{"x" * size}"', "timestamp": 1})
            if state == "wait":
                commands.lpush(f"bull:{queue}:wait", f"j{number}")
            else:
                commands.zadd(f"bull:{queue}:{state}", {f"j{number}": number})
        commands.execute()


async def by_bullmq(world: RealWorld, state: str, window: tuple[int, int], oldest_first: bool) -> list[Any]:
    script = QueueScript("getJobs", bullmq_text("getJobs", 1), keys="prefix", arguments="start end asc most states*")
    (found,) = await world.scripts.call(script, world.keys, *window, "01"[oldest_first], 5, state)
    return [(job_id, fields_of(flat)) for job_id, flat in found]


@pytest.mark.parametrize("state", ["wait", "completed"])
async def test_a_window_selects_the_jobs_that_bullmq_selects(
    world: RealWorld, reading: Measured, store: redis.Redis, state: str
) -> None:
    fill(store, world.queue, 12, state=state)
    store.delete(*(f"bull:{world.queue}:j{number}" for number in (1, 5, 6, 10)))
    large = LargeReads(reading)
    ends = (-13, -3, -1, 0, 1, 4, 11, 12, 30)
    for start, end, oldest_first in product(ends, ends, (True, False)):
        if 0 <= end < start:
            continue  # is no window
        pieces = large.jobs(world.keys, [state], (start, end), oldest_first=oldest_first)
        found = [job async for piece in pieces for job in piece]
        assert found == await by_bullmq(world, state, (start, end), oldest_first), (start, end, oldest_first)


async def test_no_reply_is_longer_than_a_megabyte_and_one_job(
    world: RealWorld, reading: Measured, store: redis.Redis
) -> None:
    size = 300_000
    fill(store, world.queue, 20, size)
    pieces = LargeReads(reading).jobs(world.keys, ["waiting"], (0, 99), oldest_first=True)
    assert [job_id async for piece in pieces for job_id, _ in piece] == [b"j%d" % number for number in range(20)]
    assert max(reading.replies) <= REPLY_BYTES + size + 100
    assert len(reading.replies) == 5


async def test_log_lines_come_in_short_replies(world: RealWorld, reading: Measured, store: redis.Redis) -> None:
    lines = [f"{number:07}" * 20_000 for number in range(30)] + ["short"] * 1200
    store.rpush(f"bull:{world.queue}:a:logs", *lines)
    inspector = Inspector(world.scripts, "bull", reading)
    found = [line async for piece in inspector.logs(world.queue, "a", 0, -1) for line in piece]
    assert found == [line.encode() for line in lines]
    assert max(reading.replies) <= REPLY_BYTES + len(lines[0])
    tail = [line async for piece in inspector.logs(world.queue, "a", -1201, 29) for line in piece]
    assert tail == [lines[29].encode()]


async def test_a_large_read_does_not_delay_other_commands(
    world: RealWorld, reading: Measured, store: redis.Redis
) -> None:
    """A lease is renewed, and a job added, several times before a page of 40 jobs of 2 MB is read."""
    await world.add("held")
    lease = await world.store.take(b"us:1")
    fill(store, world.queue, 40, 2_000_000)
    inspector = Inspector(world.scripts, "bull", reading)
    happened: list[str] = []

    async def read() -> None:
        _, pieces = await inspector.page(world.queue, ["waiting"], 0, 100)
        async for piece in pieces:
            happened.extend("read" for _ in piece)

    async with asyncio.TaskGroup() as tasks:
        page = tasks.create_task(read())
        for number in range(5):
            assert await world.store.extend([lease]) == set()  # type: ignore[list-item]
            await world.add(f"small-{number}")
            happened.append("small")
        assert not page.done()
    assert happened.count("read") >= 40
    assert happened[-1] == "read"


async def test_a_flow_that_is_too_large_is_refused(world: RealWorld, reading: Measured, store: redis.Redis) -> None:
    inspector = Inspector(world.scripts, "bull", reading)
    actions = JobActions(world.scripts, "bull", world.now, reading)
    flows = Flows(world.scripts, world.producer, inspector, actions, "bull")
    fill(store, world.queue, 5, 9_000_000)
    store.sadd(f"bull:{world.queue}:j0:dependencies", *(f"bull:{world.queue}:j{number}" for number in range(1, 5)))
    tree = await flows.read(world.queue, "j0", Depth(2, 2, lambda queue: True))
    assert [child.job_id for child in tree.children] == ["j1", "j2"]
    with pytest.raises(InvalidRequest, match="larger than 32 MB; ask for less depth"):
        await flows.read(world.queue, "j0", Depth(2, 20, lambda queue: True))
