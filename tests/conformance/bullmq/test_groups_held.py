"""Groups that are held back are counted, each time that a lease passes their next job over."""

from tests.conformance.bullmq.test_groups import DONE, add, control_of, left, taken
from tests.conformance.worlds import RealWorld
from toril.bullmq.rules.groups import GroupLimits
from toril.core.group_limits import GroupRate
from toril.core.lease import Lease, NoJob
from toril.core.metrics import GROUP_HELD
from toril.testing import FakeMeter

HOUR_MS = 3_600_000


def followed(world: RealWorld) -> FakeMeter:
    """A meter that counts what is held back on these leases."""
    meter = FakeMeter()
    world.book.held.follow(meter)
    return meter


def held(meter: FakeMeter) -> dict[tuple[str, ...], float]:
    """How often, by group and reason."""
    return {labels[1:]: count for (metric, labels), count in meter.counts.items() if metric is GROUP_HELD}


async def test_each_reason_is_counted_once_while_nothing_changes(world: RealWorld) -> None:
    meter, control = followed(world), control_of(world)
    await control.set_limits(world.queue, "r", GroupLimits(limit=GroupRate(1, HOUR_MS)), paused=None)
    await control.set_limits(world.queue, "c", GroupLimits(concurrency=1), paused=None)
    await control.set_limits(world.queue, "p", GroupLimits(), paused=True)
    for group in ("r", "c", "p"):
        for number in range(2):
            await add(world, f"{group}-{number}", group)
    assert {(await taken(world.store, b"us:%d" % n)).job_id for n in range(2)} == {b"r-0", b"c-0"}
    for _ in range(3):
        assert isinstance(await world.store.take(b"us:9"), NoJob)
    assert held(meter) == {("r", "rate"): 1, ("c", "concurrency"): 1, ("p", "paused"): 1}


async def test_settling_counts_what_it_passes_over(world: RealWorld) -> None:
    meter, control = followed(world), control_of(world)
    await control.set_limits(world.queue, "r", GroupLimits(limit=GroupRate(1, HOUR_MS)), paused=None)
    for number in range(2):
        await add(world, f"r-{number}", "r")
    lease = await taken(world.store)
    assert held(meter) == {}
    assert isinstance(await world.store.complete(lease, DONE, fetch_next=True), NoJob)
    assert held(meter) == {("r", "rate"): 1}


async def test_what_is_passed_over_for_a_job_without_a_group_is_counted_with_the_next_lease(world: RealWorld) -> None:
    meter, control = followed(world), control_of(world)
    await control.set_limits(world.queue, "p", GroupLimits(), paused=True)
    for number in range(2):
        await add(world, f"p-{number}", "p")
        await add(world, f"plain-{number}", None)
    leases = [await taken(world.store, b"us:%d" % number) for number in range(2)]
    assert [lease.job_id for lease in leases] == [b"plain-0", b"plain-1"]
    assert isinstance(await world.store.take(b"us:9"), NoJob)
    assert held(meter) == {("p", "paused"): 1}
    await control.resume(world.queue, "p")
    leases += [await taken(world.store, b"us:%d" % number) for number in (2, 3)]
    for lease in leases:
        await world.store.complete(lease, DONE, fetch_next=False)
    assert not isinstance(await world.store.take(b"us:9"), Lease)
    assert await left(world) == []
