"""Cancelling a job in any state, and announcing it to the worker that has it."""

import asyncio
from collections.abc import Callable

import pytest

from tests.conformance.worlds import Heard, RealWorld, announcements_of
from toril.bullmq.cancelling import Cancelling
from toril.core.errors import LeaseLost
from toril.core.lease import NOTHING, Lease
from toril.core.verdict import Complete, Fail, Retry


def cancelling(world: RealWorld, heard: Heard) -> Cancelling:
    return Cancelling(world.scripts, "bull", announcements_of(world, heard))


async def taken(world: RealWorld) -> Lease:
    lease = await world.store.take(b"us:1")
    assert isinstance(lease, Lease)
    return lease


async def waiting(world: RealWorld) -> None:
    await world.add("j")


async def delayed(world: RealWorld) -> None:
    await world.add("j", delay_s=60)


async def prioritized(world: RealWorld) -> None:
    await world.add("j", opts={"priority": 5})


async def active(world: RealWorld) -> None:
    await world.add("j")
    await taken(world)


async def completed(world: RealWorld) -> None:
    await world.add("j")
    await world.store.complete(await taken(world), Complete(b"1", (b"response", b"\xff")), fetch_next=False)


async def failed(world: RealWorld) -> None:
    await world.add("j")
    await world.store.fail(await taken(world), Fail("no", "trace"), fetch_next=False)


async def waiting_for_a_retry(world: RealWorld) -> None:
    await world.add("j", opts={"attempts": 3})
    await world.store.retry(await taken(world), Retry(60_000, "no", "trace"), fetch_next=False)


@pytest.mark.parametrize(
    "state",
    [waiting, delayed, prioritized, active, completed, failed, waiting_for_a_retry],
    ids=lambda state: state.__name__,
)
async def test_a_job_is_removed_in_every_state_and_that_is_announced(world: RealWorld, state: Callable) -> None:  # type: ignore[type-arg]
    await state(world)
    heard = Heard()
    assert await cancelling(world, heard).cancel(world.queue, "j")
    assert heard.jobs == [(world.queue, b"j")]
    assert await world.places(b"j") == []
    assert await world.link.call("KEYS", world.keys.key("j*")) == []
    assert await world.store.take(b"us:2") == NOTHING
    assert not await cancelling(world, heard).cancel(world.queue, "j")
    assert len(heard.jobs) == 1


async def settled(world: RealWorld, lease: Lease, verdict: Complete | Fail | Retry) -> None:
    match verdict:
        case Complete():
            await world.store.complete(lease, verdict, fetch_next=False)
        case Fail():
            await world.store.fail(lease, verdict, fetch_next=False)
        case Retry():
            await world.store.retry(lease, verdict, fetch_next=False)


@pytest.mark.parametrize(
    "verdict", [Complete(b"1"), Fail("no", "trace"), Retry(0, "no", "trace"), Retry(9, "no", "trace")]
)
async def test_the_former_holder_of_the_job_can_write_nothing(
    world: RealWorld, verdict: Complete | Fail | Retry
) -> None:
    await world.add("j")
    lease = await taken(world)
    await cancelling(world, Heard()).cancel(world.queue, "j")
    with pytest.raises(LeaseLost):
        await settled(world, lease, verdict)
    assert await world.store.extend([lease]) == {b"j"}
    assert await world.link.call("KEYS", world.keys.key("j*")) == []


async def test_a_job_is_removed_whole_even_if_redis_has_forgotten_the_script(world: RealWorld) -> None:
    await active(world)
    await world.link.call("SCRIPT", "FLUSH")
    assert await cancelling(world, Heard()).cancel(world.queue, "j")
    assert await world.places(b"j") == []


async def test_every_instance_hears_of_a_cancelled_job(world: RealWorld) -> None:
    here, there = Heard(), Heard()
    one, two = cancelling(world, here), announcements_of(world, there)
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(two.run())
        # Its place in the stream is known once it has heard of something.
        async with asyncio.timeout(20):
            number = 0
            while not there.jobs:
                number += 1
                await world.add(f"j{number}")
                await one.cancel(world.queue, f"j{number}")
                await asyncio.sleep(0.02)
            await world.add("last")
            await one.cancel(world.queue, "last")
            await announcements_of(world, here).limit_lifted(world.queue)
            while not there.lifted:
                await asyncio.sleep(0.02)
            assert there.jobs[-1] == (world.queue, b"last")
        following.cancel()
    assert here.jobs[-1] == (world.queue, b"last")


async def test_fields_of_a_completed_job_are_written_byte_for_byte_in_the_same_step(world: RealWorld) -> None:
    await world.add("j")
    await world.add("k")
    body = bytes(range(256)) * 500
    found = await world.store.complete(
        await taken(world), Complete(b'{"status":200}', (b"response", body)), fetch_next=True
    )
    assert isinstance(found, Lease)
    assert found.job_id == b"k"
    fields = await world.fields(b"j")
    assert (fields[b"response"], fields[b"returnvalue"]) == (body, b'{"status":200}')
    events = await world.link.call("XRANGE", world.keys.key("events"), "-", "+")
    assert all(body not in flat for _, flat in events)
