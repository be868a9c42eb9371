"""Walking through the jobs of a queue on a real Valkey: every job once, whatever comes and goes, in short steps."""

from typing import Any

import pytest
import redis

from tests.conformance.bullmq.test_large_reads import fill
from tests.conformance.worlds import RealWorld
from toril.bullmq.job_scanner import RedisJobScanner
from toril.bullmq.lua.large_reads import REPLY_BYTES
from toril.bullmq.ports.scanning import Walked
from toril.bullmq.rules.place import WalkPlace

STATES = ["wait", "completed"]


@pytest.fixture
def scanner(world: RealWorld) -> RedisJobScanner:
    return RedisJobScanner(world.scripts, "bull")


class Walk:
    """A walk with its place."""

    def __init__(self, scanner: RedisJobScanner, queue: str, states: list[str], *, oldest_first: bool) -> None:
        self._scanner = scanner
        self._where: Any = (queue, ["waiting" if state == "wait" else state for state in states])
        self._oldest_first = oldest_first
        self.place = WalkPlace()

    async def step(self, count: int) -> Walked | None:
        walked = await self._scanner.walk(*self._where, self.place, count, oldest_first=self._oldest_first)
        if walked is not None:
            self.place = walked.place(-1 % len(walked.ids))
        return walked

    async def rest(self, count: int = 10) -> list[bytes]:
        found: list[bytes] = []
        while (walked := await self.step(count)) is not None:
            found += walked.ids
        return found


def names(numbers: Any) -> list[bytes]:
    return [b"j%d" % number for number in numbers]


@pytest.mark.parametrize("oldest_first", [True, False])
async def test_a_walk_comes_to_every_job_of_every_state_once(
    scanner: RedisJobScanner, world: RealWorld, store: redis.Redis, oldest_first: bool
) -> None:
    fill(store, world.queue, 25)
    fill(store, world.queue, 25, state="failed")
    numbers = range(25) if oldest_first else range(24, -1, -1)
    walk = Walk(scanner, world.queue, ["wait", "active", "failed"], oldest_first=oldest_first)
    assert await walk.rest() == names([*numbers, *numbers])


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("oldest_first", [True, False])
async def test_a_walk_goes_on_behind_its_job_when_others_come_and_go(
    scanner: RedisJobScanner, world: RealWorld, store: redis.Redis, state: str, oldest_first: bool
) -> None:
    fill(store, world.queue, 200, state=state)
    walk = Walk(scanner, world.queue, [state], oldest_first=oldest_first)
    await walk.step(20)
    seen = range(20) if oldest_first else range(199, 179, -1)
    fill_more(store, world.queue, state, 500)
    key = f"bull:{world.queue}:{state}"
    for number in list(seen)[:15]:
        store.lrem(key, 0, f"j{number}") if state == "wait" else store.zrem(key, f"j{number}")
    left = [job_id for job_id in await walk.rest() if not job_id.startswith(b"more")]
    assert left == names(range(20, 200) if oldest_first else range(179, -1, -1))


@pytest.mark.parametrize("oldest_first", [True, False])
async def test_a_walk_whose_job_is_gone_goes_on_at_its_score(
    scanner: RedisJobScanner, world: RealWorld, store: redis.Redis, oldest_first: bool
) -> None:
    fill(store, world.queue, 60, state="failed")
    walk = Walk(scanner, world.queue, ["failed"], oldest_first=oldest_first)
    await walk.step(20)
    store.zrem(f"bull:{world.queue}:failed", walk.place.after)
    assert await walk.rest() == names(range(20, 60) if oldest_first else range(39, -1, -1))


async def test_workers_that_take_all_that_was_walked_over_hide_no_job(
    scanner: RedisJobScanner, world: RealWorld, store: redis.Redis
) -> None:
    fill(store, world.queue, 100)
    walk = Walk(scanner, world.queue, ["wait"], oldest_first=True)
    await walk.step(20)
    for _ in range(50):
        store.rpop(f"bull:{world.queue}:wait")
    assert await walk.rest() == names(range(50, 100))


async def test_fields_are_read_up_to_a_megabyte_and_of_what_is_gone_there_are_none(
    scanner: RedisJobScanner, world: RealWorld, store: redis.Redis
) -> None:
    fill(store, world.queue, 5, size=REPLY_BYTES // 2)
    store.delete(f"bull:{world.queue}:j1")
    store.delete(f"bull:{world.queue}:j2")
    store.set(f"bull:{world.queue}:j2", "no hash")
    parts = await scanner.fields(world.queue, names(range(5)), [b"name", b"data", b"failedReason"])
    assert [len(part.get(b"data", b"")) > 1000 for part in parts] == [True, False, False, True]
    assert parts[1:3] == [{}, {}]
    assert set(parts[0]) == {b"name", b"data"}
    assert [job_id for job_id, _ in await scanner.jobs(world.queue, names([0, 1, 3, 4]), 1000)] == [b"j0"]


def fill_more(store: redis.Redis, queue: str, state: str, count: int) -> None:
    """Put jobs into a state that are newer than all others."""
    key = f"bull:{queue}:{state}"
    for number in range(count):
        if state == "wait":
            store.lpush(key, f"more{number}")
        else:
            store.zadd(key, {f"more{number}": 10_000 + number})
