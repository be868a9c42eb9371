"""What every `RecentAttempts` promises: over the fake, and on a real Valkey."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.conformance.bullmq.links import address_of, up
from tests.conformance.holding import held
from tests.support.valkey import ValkeyProcess
from toril.queues.ports import RecentAttempts
from toril.queues.redis_attempts import RedisAttempts
from toril.queues.rules.attempt import Attempt
from toril.redis.connection import Link
from toril.testing import FakeAttempts


def attempt(number: int) -> Attempt:
    return Attempt(str(number), "retried" if number % 2 else "completed", 500 if number % 2 else 200, 12, 1000 + number)


def ids(found: list[bytes]) -> list[str]:
    return [msgspec.json.decode(one)["jobId"] for one in found]


@pytest.fixture(params=["fake", "valkey"])
async def attempts(request: pytest.FixtureRequest) -> AsyncIterator[RecentAttempts]:
    if request.param == "fake":
        yield FakeAttempts()
        return
    async for link in held(up(address_of(request.getfixturevalue("valkey")))):
        yield RedisAttempts(link, "bull")


@pytest.fixture
async def link(valkey: ValkeyProcess) -> AsyncIterator[Link]:
    async for made in held(up(address_of(valkey))):
        yield made


async def test_without_attempts_the_list_is_empty(attempts: RecentAttempts, queue: str) -> None:
    assert await attempts.recent(queue) == []


async def test_an_attempt_is_shown_as_recorded(attempts: RecentAttempts, queue: str) -> None:
    attempts.note(queue, attempt(1))
    attempts.note("other", attempt(2))
    (found,) = await attempts.recent(queue)
    assert msgspec.json.decode(found) == {
        "jobId": "1", "outcome": "retried", "status": 500, "durationMs": 12, "at": 1001
    }  # fmt: skip


async def test_an_outcome_that_a_newer_version_has_written_is_shown_as_it_is(link: Link, queue: str) -> None:
    newer = b'{"jobId":"1","outcome":"moulted","status":null,"durationMs":1,"at":5,"wind":"NE"}'
    await link.call("LPUSH", f"toril:recent:bull:{queue}", newer)
    (found,) = await RedisAttempts(link, "bull").recent(queue)
    assert msgspec.json.decode(found)["outcome"] == "moulted"


async def test_the_newest_twenty_are_kept_the_newest_first(attempts: RecentAttempts, queue: str) -> None:
    for number in range(50):
        attempts.note(queue, attempt(number))
        if number % 7 == 0:
            await attempts.recent(queue)
    assert ids(await attempts.recent(queue)) == [str(number) for number in range(49, 29, -1)]


async def test_each_process_sees_the_attempts_of_the_others(link: Link, queue: str) -> None:
    ours, theirs = RedisAttempts(link, "bull"), RedisAttempts(link, "bull")
    ours.note(queue, attempt(1))
    theirs.note(queue, attempt(2))
    writing = asyncio.ensure_future(theirs.run())
    while ids(await ours.recent(queue)) != ["2", "1"]:
        await asyncio.sleep(0.05)
    writing.cancel()
