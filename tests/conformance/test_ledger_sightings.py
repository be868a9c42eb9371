"""Who has which ledger, as Redis and the fake tell it."""

import os
from collections.abc import AsyncIterator

import pytest

from tests.conformance.bull.links import PATIENT, address_of, up
from tests.conformance.holding import held
from tests.support.valkey import ValkeyProcess
from toril.adapters.redis_ledgers import RedisLedgers
from toril.bull.connection import Link
from toril.core.ports.ledger import LedgerSightings, Sighting
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
        yield RedisLedgers(made.call, f"test-{os.urandom(4).hex()}")


def told(found: list[Sighting]) -> list[tuple[str, str, bool, bool]]:
    return sorted((one.target, one.ledger_id, one.live, one.senior) for one in found)


async def test_who_has_the_same_ledger_is_no_other(sightings: LedgerSightings) -> None:
    for _ in range(3):
        assert await sightings.note("one", ["a", "b"]) == []


async def test_the_others_are_told_by_target_with_who_was_first(sightings: LedgerSightings) -> None:
    await sightings.note("one", ["a", "b", "only"])
    assert told(await sightings.note("two", ["b", "a", "c"])) == [("a", "one", True, True), ("b", "one", True, True)]
    assert told(await sightings.note("one", ["a", "only"])) == [("a", "two", True, False)]
    assert told(await sightings.note("three", ["c:d", "c"])) == [("c", "two", True, True)]


async def test_instances_without_targets_have_no_others(sightings: LedgerSightings) -> None:
    await sightings.note("one", ["a"])
    assert await sightings.note("two", []) == []


async def test_who_was_not_seen_for_long_is_not_live_and_is_forgotten_later(link: Link) -> None:
    sightings = RedisLedgers(link.call, prefix := f"test-{os.urandom(4).hex()}")
    await sightings.note("one", ["a"])
    key = f"{prefix}:toril:ledgers"
    now_s = int((await link.call("TIME"))[0])
    for ago_s, expected in ((60, [("a", "one", False, False)]), (9 * 24 * 3600, [])):
        at = (now_s - ago_s) * 1_000_000
        await link.call("HSET", key, "one:a", f"{at} {at}")
        assert told(await sightings.note("two", ["a"])) == expected
    assert await link.call("HKEYS", key) == [b"two:a"]


async def test_what_others_wrote_into_the_key_does_no_harm(link: Link) -> None:
    sightings = RedisLedgers(link.call, prefix := f"test-{os.urandom(4).hex()}")
    await link.call("HSET", f"{prefix}:toril:ledgers", "junk", "1 2", "one:a", "x", "two:a", "")
    assert await sightings.note("two", ["a"]) == []
    assert told(await sightings.note("one", ["a"])) == [("a", "two", True, True)]
