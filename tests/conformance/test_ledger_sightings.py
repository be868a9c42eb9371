"""Who has which ledger, as Redis and the fake tell it."""

import os
from collections.abc import AsyncIterator

import pytest

from tests.conformance.bullmq.links import PATIENT, address_of, up
from tests.conformance.holding import held
from tests.support.valkey import ValkeyProcess
from toril.delivery.ports import LedgerSightings, Sighting
from toril.delivery.redis_sightings import RedisLedgerSightings
from toril.redis.connection import Link
from toril.testing import FakeClock, FakeSightings


@pytest.fixture
async def link(valkey: ValkeyProcess) -> AsyncIterator[Link]:
    async for made in held(up(address_of(valkey), PATIENT)):
        yield made


@pytest.fixture(params=["fake", "redis"])
async def sightings(request: pytest.FixtureRequest) -> AsyncIterator[LedgerSightings]:
    if request.param == "fake":
        yield FakeSightings(FakeClock())
        return
    async for made in held(up(address_of(request.getfixturevalue("valkey")), PATIENT)):
        yield RedisLedgerSightings(made, f"test-{os.urandom(4).hex()}")


def told(found: list[Sighting]) -> list[tuple[str, str, bool, bool]]:
    return sorted((one.target, one.ledger_id, one.live, one.senior) for one in found)


async def test_instances_with_the_same_ledger_are_not_reported(sightings: LedgerSightings) -> None:
    for _ in range(3):
        assert await sightings.note("one", ["a", "b"]) == []


async def test_other_ledgers_are_reported_by_target_with_their_seniority(sightings: LedgerSightings) -> None:
    await sightings.note("one", ["a", "b", "only"])
    assert told(await sightings.note("two", ["b", "a", "c"])) == [("a", "one", True, True), ("b", "one", True, True)]
    assert told(await sightings.note("one", ["a", "only"])) == [("a", "two", True, False)]
    assert told(await sightings.note("three", ["c:d", "c"])) == [("c", "two", True, True)]


async def test_instances_without_targets_have_no_others(sightings: LedgerSightings) -> None:
    await sightings.note("one", ["a"])
    assert await sightings.note("two", []) == []


async def test_a_new_ledger_in_the_place_of_a_former_one_replaces_it(sightings: LedgerSightings) -> None:
    await sightings.note("former", ["a", "b"], place="here", starting=True)
    await sightings.note("former", ["a", "b"], place="here")
    await sightings.note("another", ["a"], place="there", starting=True)
    assert told(await sightings.note("new", ["a"], place="here", starting=True)) == [("a", "another", True, True)]
    assert told(await sightings.note("another", ["a", "b"], place="there")) == [("a", "new", True, False)]


async def test_a_former_ledger_that_is_also_at_work_elsewhere_is_still_reported(sightings: LedgerSightings) -> None:
    await sightings.note("shared", ["a"], place="here", starting=True)
    await sightings.note("shared", ["a"], place="there", starting=True)
    assert told(await sightings.note("new", ["a"], place="here", starting=True)) == [("a", "shared", True, True)]


async def test_two_live_ledgers_with_the_same_place_name_are_reported_to_each_other(sightings: LedgerSightings) -> None:
    await sightings.note("one", ["a"], place="here", starting=True)
    await sightings.note("two", ["a"], place="here", starting=True)
    for _ in range(2):
        assert told(await sightings.note("one", ["a"], place="here")) == [("a", "two", True, True)]
        assert told(await sightings.note("two", ["a"], place="here")) == [("a", "one", True, False)]


async def test_a_ledger_that_was_not_seen_for_long_is_not_live_and_later_removed(link: Link) -> None:
    sightings = RedisLedgerSightings(link, prefix := f"test-{os.urandom(4).hex()}")
    await sightings.note("one", ["a"])
    key = f"{prefix}:toril:ledgers"
    now_s = int((await link.call("TIME"))[0])
    for ago_s, expected in ((60, [("a", "one", False, False)]), (9 * 24 * 3600, [])):
        at = (now_s - ago_s) * 1_000_000
        await link.call("HSET", key, "one:a", f"{at} {at}")
        assert told(await sightings.note("two", ["a"])) == expected
    assert await link.call("HKEYS", key) == [b"two:a"]


async def test_foreign_fields_of_the_key_are_removed(link: Link) -> None:
    sightings = RedisLedgerSightings(link, prefix := f"test-{os.urandom(4).hex()}")
    key = f"{prefix}:toril:ledgers"
    await link.call("HSET", key, "junk", "1 2", "one:a", "x", "two:a", "", "place x", "nonsense", "place y", "\0 -1")
    assert await sightings.note("two", ["a"], place="x", starting=True) == []
    assert sorted(await link.call("HKEYS", key)) == [b"place x", b"two:a"]
    assert told(await sightings.note("one", ["a"])) == [("a", "two", True, True)]
