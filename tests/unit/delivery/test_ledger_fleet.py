"""Instances with a ledger each on one Redis: who is told what, and when their jobs come again."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from toril.core.lease import Lease
from toril.core.stored_job import StoredOptions
from toril.delivery.ledger_fleet import REMEDY, LedgerFleet
from toril.delivery.rules.delivery import new_job_id
from toril.testing import FakeClock, FakeLedger, FakeSightings

JOB_ID = new_job_id(1_700_000_000.0, bytes(10))


def lease(ledger_id: str | None, starts: int = 1, job_id: str = JOB_ID) -> Lease:
    """A job that names this ledger, taken so many times."""
    data = b'{"target":"billing"}' if ledger_id is None else b'{"target":"billing","ledger":"%b"}' % ledger_id.encode()
    return Lease(
        queue="deliver-billing",
        job_id=job_id.encode(),
        token=b"t",
        fields={b"data": data, b"ats": b"%d" % starts},
        options=StoredOptions(b"{}"),
        attempts_made=0,
    )


class World:
    """Instances on one Redis."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.sightings = FakeSightings(clock)
        self.chance = 0.0

    async def instance(self, ledger_id: str, *targets: str) -> LedgerFleet:
        """One with this ledger, which has looked at the others once."""
        fleet = LedgerFleet(FakeLedger(ledger_id), self.sightings, lambda: targets or ("billing",), lambda: self.chance)
        await fleet.look()
        return fleet


@pytest.fixture
def world(clock: FakeClock) -> World:
    return World(clock)


@pytest.fixture
def logs() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as lines:
        yield lines  # type: ignore[misc]


async def test_instances_with_one_ledger_say_nothing(world: World, logs: list[dict[str, object]]) -> None:
    some = [await world.instance("one") for _ in range(3)]
    assert [(fleet.conflicts(), fleet.warnings(), fleet.others()) for fleet in some] == [([], [], [])] * 3
    assert logs == []


async def test_the_second_instance_is_not_ready_and_the_first_one_warns(
    world: World, logs: list[dict[str, object]]
) -> None:
    first = await world.instance("zzz")  # it is time that counts, not the id
    world.clock.jump(1)
    second = await world.instance("aaa")
    await first.look()
    (conflict,) = second.conflicts()
    (warning,) = first.warnings()
    assert (first.conflicts(), second.warnings()) == ([], [])
    for sentence in (conflict, warning):
        assert "aaa" in sentence
        assert "zzz" in sentence
        assert REMEDY in sentence
        assert "billing" not in sentence  # /ready needs no token
    said = [line for line in logs if line["event"] == "ledger.several_on_one_redis"]
    assert [(line["log_level"], line["ledger"], line["others"]) for line in said] == [
        ("error", "aaa", ["zzz"]),
        ("error", "zzz", ["aaa"]),
    ]


async def test_a_conflict_is_logged_once_a_minute_and_its_end_once(world: World, logs: list[dict[str, object]]) -> None:
    first, second = await world.instance("one"), await world.instance("two")
    for _ in range(10):
        await first.look()
    assert len([line for line in logs if line["event"] == "ledger.several_on_one_redis"]) == 2
    world.clock.jump(31)  # the second one has ended
    await first.look()
    assert (first.conflicts(), first.warnings(), first.others()) == ([], [], [])
    assert [line["event"] for line in logs][-1] == "ledger.one_again"
    assert second.conflicts() != []  # it has not looked


async def test_instances_with_other_targets_are_no_conflict(world: World) -> None:
    one, other = await world.instance("one", "billing"), await world.instance("two", "email")
    await one.look()
    assert one.others() == other.others() == []
    shared = await world.instance("three", "email", "sms")
    await other.look()
    assert shared.conflicts() != []
    assert other.warnings() != []


async def test_an_instance_that_was_away_for_long_counts_as_the_later_one(world: World) -> None:
    first = await world.instance("one")
    world.clock.jump(31)
    second = await world.instance("two")
    await first.look()
    await second.look()
    assert first.conflicts() != []
    assert second.conflicts() == []


async def test_a_job_is_retried_sooner_while_its_ledger_is_at_work(world: World) -> None:
    other, ours = await world.instance("two"), await world.instance("one")

    def pause_s(starts: int, ledger_id: str = "two") -> float:
        back = ours.elsewhere(lease(ledger_id, starts), "billing")
        assert back is not None
        return back.after_ms / 1000

    assert [pause_s(starts) for starts in (1, 10, 20, 99)] == [0.2, 0.2, 0.8, 30.0]
    world.clock.jump(60)
    await ours.look()
    assert pause_s(1) == 30.0
    world.clock.jump(3600)
    await ours.look()
    assert pause_s(1) == 300.0
    assert pause_s(1, "never-seen") == 0.2
    assert pause_s(99, "never-seen") == 300.0
    await other.look()
    await ours.look()
    assert pause_s(1) == 0.2


async def test_a_job_that_was_given_back_is_taken_at_random(world: World) -> None:
    one, other = await world.instance("one", "billing", "own"), await world.instance("two", "billing")
    await one.look()
    for chance, taken in ((0.0, True), (0.49, True), (0.5, False), (0.99, False)):
        world.chance = chance
        assert [fleet.may_take("billing") for fleet in (one, other)] == [taken, taken]
        assert one.may_take("own")
    world.clock.jump(31)
    await one.look()
    assert one.may_take("billing"), "the other one is gone"


async def test_a_job_tells_its_ledger_before_ours_is_asked(world: World) -> None:
    ours = await world.instance("one")
    assert ours.elsewhere(lease("one"), "billing") is None
    assert ours.elsewhere(lease(None), "billing") is None
    assert ours.elsewhere(lease("two"), "billing") is not None
    unknown = LedgerFleet(FakeLedger("one"), world.sightings, lambda: ("billing",), lambda: 0.0)
    assert unknown.elsewhere(lease("two"), "billing") is None  # then the row says it


@pytest.mark.parametrize("ledger_id", ["one", "two", None])
async def test_a_job_without_a_row_waits_and_is_logged(
    world: World, logs: list[dict[str, object]], ledger_id: str | None
) -> None:
    ours = await world.instance("one")
    for _ in range(3):
        assert ours.rowless(lease(ledger_id), "billing") is not None
    (said,) = logs
    assert (said["log_level"], said["job_id"], said["target"], said["ledger"]) == ("error", JOB_ID, "billing", "one")
    assert said["other"] == ("two" if ledger_id == "two" else None)
    (warning,) = ours.warnings()
    assert ("two" in warning) is (ledger_id == "two")


async def test_jobs_that_name_many_ledgers_fill_neither_the_log_nor_the_answer(
    world: World, logs: list[dict[str, object]]
) -> None:
    ours = await world.instance("one")
    for number in range(500):
        assert ours.elsewhere(lease(f"made-up-{number}"), "billing") is not None
    assert len(logs) == 1
    (warning,) = ours.warnings()
    assert warning.count("made-up") == 3


async def test_a_job_that_is_no_delivery_is_not_kept_waiting(world: World) -> None:
    ours = await world.instance("one")
    assert ours.rowless(lease(None, job_id="17"), "billing") is None
