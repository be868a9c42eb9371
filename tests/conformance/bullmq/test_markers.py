"""Waiting for many queues over a few blocking connections, on a real Valkey."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.conformance.bullmq.links import address_of, quick, up
from tests.conformance.holding import held
from tests.conformance.servers import until
from tests.support.valkey import ValkeyProcess
from toril.bullmq import markers as module
from toril.bullmq.markers import Markers
from toril.redis.connection import Link
from toril.redis.policy import StorePolicy

NewQueue = Callable[[], str]


class Waits:
    """Markers, what woke, and a way to leave markers as BullMQ does."""

    def __init__(self, link: Link, policy: StorePolicy, tasks: asyncio.TaskGroup) -> None:
        self.link = link
        self.markers = Markers(link, policy, tasks)
        self.woken: list[tuple[str, float]] = []

    def watch(self, *queues: str) -> None:
        for queue in queues:
            self.markers.watch(queue, lambda at_s, queue=queue: self.woken.append((queue, at_s)))

    async def mark(self, queue: str, at_s: float = 0.0) -> None:
        await self.link.call("ZADD", f"bull:{queue}:marker", round(at_s * 1000), "1" if at_s else "0")

    async def left(self, queue: str) -> list[bytes]:
        found: list[bytes] = await self.link.call("ZRANGE", f"bull:{queue}:marker", 0, -1, "WITHSCORES")
        return found

    async def until_woken(self, *queues: str, within_s: float = 8.0) -> None:
        await until(lambda: {queue for queue, _ in self.woken} >= set(queues), within_s)

    async def connections(self) -> list[dict[str, str]]:
        """toril's connections that block on markers."""
        text: bytes = await self.link.call("CLIENT", "LIST")
        clients = [dict(part.split("=", 1) for part in line.split(" ")) for line in text.decode().splitlines()]
        return [client for client in clients if client["name"].startswith(("toril:lane", "toril:recent"))]

    async def blocked(self, connections: int = 1) -> None:
        """Wait until that many connections block in BZPOPMIN."""

        async def all_block() -> bool:
            found = [
                client for client in await self.connections() if client["cmd"] == "bzpopmin" and "b" in client["flags"]
            ]
            return len(found) >= connections

        await until(all_block)


@asynccontextmanager
async def waiting(valkey: ValkeyProcess, **policy: Any) -> AsyncIterator[Waits]:
    """Markers that run for the length of a block."""
    failure: Exception | None = None

    async def stop() -> None:
        raise _OverError

    async with up(address_of(valkey), quick()) as link:
        try:
            async with asyncio.TaskGroup() as tasks:
                made = Waits(link, quick(**policy), tasks)
                tasks.create_task(made.markers.run())
                try:
                    yield made
                except Exception as exc:
                    failure = exc
                tasks.create_task(stop())
        except* _OverError:
            pass
    if failure is not None:
        raise failure


class _OverError(Exception):
    """The block has ended."""


@pytest.fixture
async def waits(start_valkey: Callable[..., ValkeyProcess]) -> AsyncIterator[Waits]:
    """On a Valkey of the test's own: connections are counted."""
    async for made in held(waiting(start_valkey())):
        yield made


async def test_a_marker_wakes_the_queue_that_waits(waits: Waits, queue: str) -> None:
    waits.watch(queue)
    await waits.blocked()
    await waits.mark(queue)
    await waits.until_woken(queue)
    assert waits.woken == [(queue, 0.0)]
    assert await waits.left(queue) == [], "it is used up"


async def test_a_marker_that_is_there_already_wakes_at_once(waits: Waits, queue: str) -> None:
    await waits.mark(queue)
    waits.watch(queue)
    await waits.until_woken(queue)


async def test_a_queue_is_woken_once_per_watch(waits: Waits, queue: str) -> None:
    waits.watch(queue)
    await waits.mark(queue)
    await waits.until_woken(queue)
    await waits.mark(queue)
    await asyncio.sleep(0.1)
    assert waits.woken == [(queue, 0.0)]
    assert await waits.left(queue) == [b"0", b"0"]
    waits.watch(queue)
    await until(lambda: len(waits.woken) == 2)


async def test_a_delayed_marker_has_the_time_of_its_job(waits: Waits, queue: str) -> None:
    at_s = time.time() + 3600
    waits.watch(queue)
    await waits.mark(queue, at_s)
    await waits.until_woken(queue)
    ((_, found),) = waits.woken
    assert found == pytest.approx(at_s, abs=0.001)


async def test_an_immediate_marker_is_taken_before_a_delayed_one(waits: Waits, queue: str) -> None:
    await waits.mark(queue, time.time() + 3600)
    await waits.mark(queue)
    waits.watch(queue)
    await waits.until_woken(queue)
    assert waits.woken == [(queue, 0.0)]


async def test_six_hundred_queues_wait_on_three_connections(waits: Waits, new_queue: NewQueue) -> None:
    queues = [new_queue() for _ in range(600)]
    waits.watch(*queues)
    await waits.blocked(3)
    assert len(await waits.connections()) == 3
    for queue in (queues[0], queues[299], queues[599]):
        began = asyncio.get_running_loop().time()
        await waits.mark(queue)
        await waits.until_woken(queue)
        assert asyncio.get_running_loop().time() - began < 4, "not when the blocking call ends by itself"
    assert [queue for queue, _ in waits.woken] == [queues[0], queues[299], queues[599]]


async def test_a_burst_on_many_queues_wakes_each_of_them(waits: Waits, new_queue: NewQueue) -> None:
    queues = [new_queue() for _ in range(300)]
    waits.watch(*queues)
    await waits.blocked(2)
    for queue in queues:
        await waits.mark(queue)
    await waits.until_woken(*queues)
    assert len(waits.woken) == 300


async def test_a_queue_that_joins_a_blocked_lane_is_waited_for(waits: Waits, new_queue: NewQueue) -> None:
    first, second = new_queue(), new_queue()
    waits.watch(first)
    await waits.blocked()
    began = asyncio.get_running_loop().time()
    waits.watch(second)
    await waits.mark(second)
    await waits.until_woken(second)
    assert asyncio.get_running_loop().time() - began < 4, "not when the blocking call ends by itself"
    assert len(await waits.connections()) == 1
    await waits.mark(first)
    await waits.until_woken(first, second)


async def test_queues_that_join_one_after_another_are_all_waited_for(waits: Waits, new_queue: NewQueue) -> None:
    queues = [new_queue() for _ in range(40)]
    for queue in queues:
        waits.watch(queue)
        await waits.mark(queue)
        await asyncio.sleep(random.random() * 0.005)
    await waits.until_woken(*queues)


async def test_a_marker_of_a_queue_that_no_longer_waits_is_put_back(waits: Waits, new_queue: NewQueue) -> None:
    wanted, unwanted = new_queue(), new_queue()
    waits.watch(wanted, unwanted)
    await waits.blocked()
    waits.markers.unwatch(unwanted)
    await waits.mark(unwanted)
    await waits.mark(wanted)
    await waits.until_woken(wanted)
    await until(lambda: _is(waits.left(unwanted), [b"0", b"0"]))
    assert [queue for queue, _ in waits.woken] == [wanted]


async def test_a_marker_put_back_keeps_its_time(waits: Waits, queue: str) -> None:
    at_s = round(time.time()) + 3600
    waits.watch(queue)
    await waits.blocked()
    waits.markers.unwatch(queue)
    await waits.mark(queue, at_s)
    await asyncio.sleep(0.05)

    async def back() -> bool:
        left = await waits.left(queue)
        return bool(left) and (left[0], float(left[1])) == (b"1", at_s * 1000)

    await until(back)


async def test_a_marker_put_back_does_not_put_off_an_earlier_one(
    waits: Waits, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the pop and the putting back a job is added that is due sooner."""
    put_back = waits.markers.give_back

    async def too_late(key: bytes, member: bytes, score: bytes) -> None:
        await waits.mark(queue, 1000.0)
        await put_back(key, member, score)

    monkeypatch.setattr(waits.markers, "give_back", too_late)
    waits.watch(queue)
    await waits.blocked()
    waits.markers.unwatch(queue)
    await waits.mark(queue, 2000.0)
    await until(lambda: _is(waits.left(queue), [b"1", b"1000000"]))
    await asyncio.sleep(0.05)
    assert await waits.left(queue) == [b"1", b"1000000"]


async def test_a_queue_that_is_not_watched_is_not_woken(waits: Waits, new_queue: NewQueue) -> None:
    watched, other = new_queue(), new_queue()
    waits.watch(watched)
    await waits.blocked()
    await waits.mark(other)
    await waits.mark(watched)
    await waits.until_woken(watched)
    assert [queue for queue, _ in waits.woken] == [watched]
    assert await waits.left(other) == [b"0", b"0"]


async def test_unwatching_a_queue_that_is_not_watched_does_nothing(waits: Waits, queue: str) -> None:
    waits.markers.unwatch(queue)
    waits.markers.forget(queue)
    waits.watch(queue)
    waits.markers.unwatch(queue)
    waits.markers.unwatch(queue)


async def test_a_queue_that_was_woken_lately_waits_in_the_short_lane(waits: Waits, new_queue: NewQueue) -> None:
    busy, *idle = [new_queue() for _ in range(100)]
    waits.watch(busy, *idle)
    await waits.blocked()
    for times in range(1, 6):
        await waits.mark(busy)
        await until(lambda times=times: len(waits.woken) == times)
        waits.watch(busy)
    await waits.blocked(2)
    assert {client["name"] for client in await waits.connections()} == {"toril:lane-1", "toril:recent"}


async def test_a_quiet_queue_goes_back_to_its_lane_and_is_still_waited_for(
    start_valkey: Callable[..., ValkeyProcess], queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECENT_S", 0.1)
    async with waiting(start_valkey()) as waits:
        waits.watch(queue)
        await waits.mark(queue)
        await waits.until_woken(queue)
        waits.watch(queue)
        await until(lambda: not waits.markers._woken)
        await waits.mark(queue)
        await until(lambda: len(waits.woken) == 2)
        waits.watch(queue)
        await asyncio.sleep(0.3)
        await waits.mark(queue)
        await until(lambda: len(waits.woken) == 3)


async def test_a_forgotten_queues_place_is_taken_by_another(
    start_valkey: Callable[..., ValkeyProcess], new_queue: NewQueue
) -> None:
    async with waiting(start_valkey(), marker_shard=10) as waits:
        for _ in range(10):
            queues = [new_queue() for _ in range(10)]
            waits.watch(*queues)
            await waits.blocked()
            for queue in queues:
                waits.markers.forget(queue)
        assert len(await waits.connections()) == 1
        last = new_queue()
        waits.watch(last)
        await waits.mark(last)
        await waits.until_woken(last)


async def test_of_two_instances_one_is_woken(start_valkey: Callable[..., ValkeyProcess], queue: str) -> None:
    valkey = start_valkey()
    async with waiting(valkey) as one, waiting(valkey) as other:
        one.watch(queue)
        other.watch(queue)
        await one.blocked(2)
        await one.mark(queue)
        await until(lambda: one.woken + other.woken)
        await asyncio.sleep(0.05)
        assert len(one.woken + other.woken) == 1
        await one.mark(queue)
        await until(lambda: len(one.woken) == len(other.woken) == 1)


async def test_after_a_broken_connection_all_queues_are_woken(
    start_valkey: Callable[..., ValkeyProcess], new_queue: NewQueue
) -> None:
    """The reply that got lost may have been a marker, which is gone from Redis then."""
    async with waiting(start_valkey()) as waits:
        queues = [new_queue() for _ in range(5)]
        waits.watch(*queues)
        await waits.blocked()
        (connection,) = await waits.connections()
        await waits.link.call("CLIENT", "KILL", "ID", connection["id"])
        await waits.until_woken(*queues)
        assert all(at_s == 0.0 for _, at_s in waits.woken)
        waits.woken.clear()
        waits.watch(*queues)
        await waits.blocked()
        await waits.mark(queues[3])
        await waits.until_woken(queues[3])


async def test_after_a_restart_markers_wake_again(start_valkey: Callable[..., ValkeyProcess], queue: str) -> None:
    valkey = start_valkey()
    async with waiting(valkey) as waits:
        waits.watch(queue)
        await waits.blocked()
        valkey.restart()
        await waits.until_woken(queue)
        waits.woken.clear()
        waits.watch(queue)
        await waits.blocked()
        await waits.mark(queue)
        await waits.until_woken(queue)


async def test_watching_works_before_redis_does(
    start_valkey: Callable[..., ValkeyProcess], new_queue: NewQueue
) -> None:
    valkey = start_valkey()
    async with waiting(valkey) as waits:
        valkey.stop()
        await until(lambda: not waits.link.is_up)
        queues = [new_queue() for _ in range(3)]
        waits.watch(*queues)
        await asyncio.sleep(0.1)
        valkey.start()
        await until(lambda: waits.link.is_up)
        for queue in queues:
            await waits.mark(queue)
        await waits.until_woken(*queues)


async def test_a_key_that_is_no_marker_keeps_no_other_queue_from_waking(waits: Waits, new_queue: NewQueue) -> None:
    """A job called `marker`, which BullMQ's own producers accept, makes a hash of the key."""
    broken, *sound = [new_queue() for _ in range(5)]
    await waits.link.call("HSET", f"bull:{broken}:marker", "name", "a job with this id")
    waits.watch(broken, *sound)
    await asyncio.sleep(0.05)
    for queue in sound:
        await waits.mark(queue)
    await waits.until_woken(*sound)


async def test_a_lane_whose_last_queue_leaves_while_it_connects_goes_on(waits: Waits, new_queue: NewQueue) -> None:
    left, stays = new_queue(), new_queue()
    waits.watch(left)
    await asyncio.sleep(0)  # the lane has seen its queue and is connecting now
    waits.markers.unwatch(left)
    await asyncio.sleep(0.05)
    waits.watch(stays)
    await waits.mark(stays)
    await waits.until_woken(stays)


async def test_a_redis_that_refuses_to_wait_is_asked_seldom_and_works_again_when_it_may(
    waits: Waits, queue: str
) -> None:
    async def refused() -> int:
        text: bytes = await waits.link.call("INFO", "commandstats")
        found = re.search(rb"cmdstat_bzpopmin:.*rejected_calls=(\d+)", text)
        return 0 if found is None else int(found[1])

    async def is_refused() -> bool:
        return await refused() > 0

    await waits.link.call("ACL", "SETUSER", "default", "-bzpopmin")
    waits.watch(queue)
    await until(is_refused)
    before = await refused()
    await asyncio.sleep(1.0)
    assert await refused() - before < 5
    await waits.link.call("ACL", "SETUSER", "default", "+bzpopmin")
    await waits.mark(queue)
    await waits.until_woken(queue)


async def test_no_wake_is_lost_while_queues_come_and_go_at_random(waits: Waits, new_queue: NewQueue) -> None:
    chance = random.Random(7)
    queues = [new_queue() for _ in range(25)]

    async def live(queue: str) -> None:
        for _ in range(20):
            woken = asyncio.Event()
            waits.markers.watch(queue, lambda _, woken=woken: woken.set())
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.01)
                waits.markers.unwatch(queue)
                continue
            await asyncio.sleep(chance.random() * 0.01)
            await waits.mark(queue)
            async with asyncio.timeout(3):
                await woken.wait()

    async with asyncio.TaskGroup() as tasks:
        for queue in queues:
            tasks.create_task(live(queue))


async def _is(finding: Any, expected: Any) -> bool:
    return bool(await finding == expected)
