"""Ids without a hash on a real Valkey: they are taken out and leave nothing, wherever they stand."""

import json

import pytest
import redis
from structlog.testing import capture_logs

from tests.conformance.worlds import RealWorld
from toril.bullmq.lua.hashless import passing_over_hashless
from toril.core.lease import NOTHING, Lease
from toril.core.verdict import Complete
from toril.engine.ports import LeaseStore
from toril.queues.rules.worker import Limiter


async def taken(store: LeaseStore, token: bytes = b"us:1") -> Lease:
    lease = await store.take(token)
    assert isinstance(lease, Lease)
    return lease


def keys_of(store: redis.Redis, world: RealWorld) -> set[str]:
    return {key.removeprefix(f"bull:{world.queue}:") for key in store.keys(f"bull:{world.queue}:*")}


async def test_an_id_without_a_hash_leaves_nothing_and_is_logged(world: RealWorld, store: redis.Redis) -> None:
    await world.add("a")
    await world.lose_hash(b"a")
    with capture_logs() as logs:
        assert await world.store.take(b"us:1") == NOTHING
    assert logs == [{"event": "lease.job_without_hash", "log_level": "warning", "queue": world.queue, "job_id": "a"}]
    assert keys_of(store, world) == {"events", "id", "marker", "meta"}
    events = [fields["event"] for _, fields in store.xrange(f"bull:{world.queue}:events")]
    assert "active" not in events
    await world.add("a", data='{"n":1}')
    assert (await taken(world.store)).fields[b"data"] == b'{"n":1}'


async def test_a_key_of_another_type_is_not_a_job_and_stays(world: RealWorld, store: redis.Redis) -> None:
    await world.add("a")
    await world.add("b")
    await world.lose_hash(b"a")
    store.rpush(f"bull:{world.queue}:a", "a line")
    with capture_logs() as logs:
        assert (await taken(world.store)).job_id == b"b"
    assert [log["job_id"] for log in logs] == ["a"]
    assert store.lrange(f"bull:{world.queue}:active", 0, -1) == ["b"]
    assert store.lrange(f"bull:{world.queue}:a", 0, -1) == ["a line"]


@pytest.mark.parametrize("opts", [{"priority": 3}, {"delay": 60_000}, {"delay": 60_000, "priority": 3}], ids=json.dumps)
async def test_an_id_without_a_hash_is_passed_over_in_every_state(
    world: RealWorld, store: redis.Redis, opts: dict[str, int]
) -> None:
    await world.add("a", opts=opts)
    await world.add("b", opts=opts)
    await world.lose_hash(b"a")
    await world.pass_time(61.0)
    assert (await taken(world.store)).job_id == b"b"
    assert store.lrange(f"bull:{world.queue}:active", 0, -1) == ["b"]
    assert not store.exists(f"bull:{world.queue}:a")


async def test_a_hash_that_holds_only_fields_of_a_lease_is_not_a_job(world: RealWorld, store: redis.Redis) -> None:
    """BullMQ's own workers lease such an id, and the stalled check gives it back with these fields."""
    store.hset(f"bull:{world.queue}:ghost", mapping={"ats": 1, "processedOn": 1, "stc": 1, "defa": "stalled"})
    store.lpush(f"bull:{world.queue}:wait", "ghost")
    assert await world.store.take(b"us:1") == NOTHING
    assert not store.exists(f"bull:{world.queue}:ghost")
    assert await world.store.recover_stalled() == []


async def test_an_id_without_a_hash_counts_for_no_limit(world: RealWorld, store: redis.Redis) -> None:
    limited = world.under(limiter=Limiter(1, 600_000))
    store.hset(f"bull:{world.queue}:meta", "concurrency", 1)
    await world.add("a")
    await world.add("b")
    await world.lose_hash(b"a")
    lease = await taken(limited)
    assert lease.job_id == b"b"
    assert store.get(f"bull:{world.queue}:limiter") == "1"
    await limited.complete(lease, Complete(b"1"), fetch_next=False)
    assert store.llen(f"bull:{world.queue}:active") == 0


async def test_workers_are_woken_for_jobs_behind_an_id_without_a_hash(world: RealWorld, store: redis.Redis) -> None:
    await world.add("a")
    await world.add("b")
    await world.add("c")
    lease = await taken(world.store)
    await world.lose_hash(b"b")
    store.delete(f"bull:{world.queue}:marker")
    assert await world.store.complete(lease, Complete(b"1"), fetch_next=True) is None
    assert store.zrange(f"bull:{world.queue}:marker", 0, -1) == ["0"]


def test_a_script_that_prepares_jobs_in_another_way_is_refused() -> None:
    with pytest.raises(ValueError, match=r"jobKey .* once, as expected"):
        passing_over_hashless(b"return 1")
