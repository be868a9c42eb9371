"""Job schedulers on a real Valkey, where what is stored is not whole."""

import json
import time
from typing import Any

import pytest

from tests.conformance.worlds import RealWorld
from toril.bullmq.keys import QueueKeys
from toril.bullmq.rules.scheduler import WRONG_TYPE, read_scheduler
from toril.bullmq.schedulers import Schedulers
from toril.bullmq.time_zones import read_zone
from toril.core.errors import WrongKeyType
from toril.core.lease import Lease


def schedulers_of(world: RealWorld) -> Schedulers:
    return Schedulers(world.scripts, "bull", lambda: int(world.now() * 1000))


async def put(world: RealWorld, **spec: Any) -> None:
    await schedulers_of(world).put(world.queue, "tick", read_scheduler(json.dumps(spec).encode(), read_zone))


async def leased(world: RealWorld) -> Lease:
    """The job of the scheduler, an hour later."""
    await world.pass_time(3601)
    lease = await world.store.take(b"us:1")
    assert isinstance(lease, Lease)
    return lease


async def fault(world: RealWorld) -> str | None:
    found = await schedulers_of(world).get(world.queue, "tick")
    assert found is not None
    (listed,), _ = await schedulers_of(world).all(world.queue, 0, 9)
    assert listed == found
    return found.fault


async def set_options(world: RealWorld, job_id: bytes, **changes: Any) -> None:
    opts = json.loads((await world.fields(job_id))[b"opts"])
    opts["repeat"] |= changes
    await world.link.call("HSET", world.keys.key(job_id), "opts", json.dumps(opts))


async def test_a_scheduler_outside_the_set_of_schedulers_does_not_exist(world: RealWorld) -> None:
    schedulers = Schedulers(world.scripts, "bull", lambda: int(time.time() * 1000))
    await schedulers.put(world.queue, "tick", read_scheduler(b'{"every":60000}', read_zone))
    assert await schedulers.get(world.queue, "tick") is not None
    keys = QueueKeys("bull", world.queue)
    await world.scripts.links.of(keys.prefix).call("ZREM", keys.key("repeat"), "tick")
    assert await schedulers.get(world.queue, "tick") is None
    assert await schedulers.get(world.queue, "never-was") is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pattern": "every full moon"}, "'ful' is no month"),
        ({"tz": "Mars/Olympus"}, "Unknown time zone Mars/Olympus"),
        ({"pattern": None}, "either pattern or every"),
        ({"limit": "few"}, "limit is not a number"),
    ],
)
async def test_a_scheduler_that_cannot_be_read_goes_on_once_it_can(
    world: RealWorld, changes: dict[str, Any], said: str
) -> None:
    await put(world, pattern="0 * * * *")
    assert await fault(world) is None
    lease = await leased(world)
    before = {key: json.loads(lease.fields[b"opts"])["repeat"].get(key) for key in changes}
    await set_options(world, lease.job_id, **changes)
    unreadable = world.store._lease(lease.job_id, lease.token, await world.fields(lease.job_id))  # type: ignore[attr-defined]
    found = await world.store.schedule_next(unreadable)
    assert said in str(found)
    assert said in str(await fault(world))
    assert await world.link.call("ZCARD", world.keys.key("delayed")) == 0
    await set_options(world, lease.job_id, **before)
    assert await fault(world) is None
    assert await world.store.schedule_next(lease) is None
    assert await world.link.call("ZCARD", world.keys.key("delayed")) == 1


@pytest.mark.parametrize("options", [b"", b"null", b"{", b"[]", b'{"repeat":5}', b'{"repeat":null}'])
async def test_options_that_are_broken_keep_the_job(world: RealWorld, options: bytes) -> None:
    await put(world, pattern="0 * * * *")
    lease = await leased(world)
    broken = world.store._lease(lease.job_id, lease.token, {**lease.fields, b"opts": options})  # type: ignore[attr-defined]
    assert await world.store.schedule_next(broken) == "there are no repeat options"
    assert await world.store.schedule_next(lease) is None


@pytest.mark.parametrize("broken", [("DEL",), ("HDEL", "name"), ("HSET", "ic", "many"), ("SET", "a text")])
async def test_a_scheduler_that_is_broken_in_redis_is_left_as_it_is(world: RealWorld, broken: tuple[str, ...]) -> None:
    await put(world, pattern="0 * * * *")
    lease = await leased(world)
    key, repeat = world.keys.key("repeat:tick"), world.keys.key("repeat")
    whole = await world.link.call("DUMP", key)
    await world.link.call(broken[0], key, *broken[1:])
    before = await world.link.call("ZSCORE", repeat, "tick")
    why = await world.store.schedule_next(lease)
    assert why is not None
    assert await fault(world) == why
    assert await world.link.call("ZSCORE", repeat, "tick") == before
    await world.link.call("RESTORE", key, 0, whole, "REPLACE")
    assert await world.store.schedule_next(lease) is None
    assert await world.link.call("ZCARD", world.keys.key("delayed")) == 1


async def test_a_scheduler_that_is_set_anew_goes_on_without_the_job_that_cannot_be_read(world: RealWorld) -> None:
    await put(world, pattern="0 * * * *")
    lease = await leased(world)
    await set_options(world, lease.job_id, pattern="every full moon")
    await put(world, pattern="30 * * * *")
    unreadable = world.store._lease(lease.job_id, lease.token, await world.fields(lease.job_id))  # type: ignore[attr-defined]
    assert await world.store.schedule_next(unreadable) is None
    assert await fault(world) is None
    assert await world.link.call("ZCARD", world.keys.key("delayed")) == 1


async def test_a_scheduler_that_has_ended_keeps_no_job(world: RealWorld) -> None:
    await put(world, pattern="0 * * * *", limit=1)
    lease = await leased(world)
    assert await world.store.schedule_next(lease) is None
    assert await world.link.call("ZCARD", world.keys.key("delayed")) == 0


async def test_every_job_has_the_template_as_it_came(world: RealWorld) -> None:
    data = b'{ "a": 1.0, "b": 1e3, "c": 123456789012345678901234567890, "d": "\\u00e9" }'
    spec = read_scheduler(b'{"every":3600000,"template":{"data":%b}}' % data, read_zone)
    await schedulers_of(world).put(world.queue, "tick", spec)
    for _ in range(3):
        lease = await leased(world)
        assert lease.fields[b"data"] == data
        await world.store.schedule_next(lease)


async def test_a_scheduler_whose_key_is_no_hash_is_listed_among_the_others_and_can_be_removed(world: RealWorld) -> None:
    await put(world, pattern="0 * * * *")
    schedulers = schedulers_of(world)
    await schedulers.put(world.queue, "sound", read_scheduler(b'{"every":30000}', read_zone))
    await world.link.call("SET", world.keys.key("repeat:tick"), "a text")
    found, count = await schedulers.all(world.queue, 0, 9)
    assert count == 2
    assert {one.id: one.fault for one in found} == {"tick": WRONG_TYPE, "sound": None}
    with pytest.raises(WrongKeyType, match="repeat:tick is a string"):
        await put(world, pattern="30 * * * *")
    assert await schedulers.remove(world.queue, "tick")
    await put(world, pattern="30 * * * *")
    again = await schedulers.get(world.queue, "tick")
    assert again is not None
    assert again.fault is None


async def test_a_set_of_schedulers_of_another_type_is_named_in_the_error(world: RealWorld) -> None:
    await world.link.call("SET", world.keys.key("repeat"), "a text")
    schedulers = schedulers_of(world)
    for asked in (
        schedulers.all(world.queue, 0, 9),
        schedulers.get(world.queue, "tick"),
        put(world, pattern="30 * * * *"),
    ):
        with pytest.raises(WrongKeyType, match=world.queue):
            await asked
    with pytest.raises(WrongKeyType, match=world.queue):
        await schedulers.remove(world.queue, "tick")


async def test_a_job_of_a_scheduler_that_is_no_hash_keeps_the_scheduler_listed(world: RealWorld) -> None:
    await put(world, pattern="0 * * * *")
    (job_id,) = await world.link.call("ZRANGE", world.keys.key("delayed"), 0, -1)
    await world.link.call("DEL", world.keys.key(job_id))
    await world.link.call("SET", world.keys.key(job_id), "a text")
    (found,), _ = await schedulers_of(world).all(world.queue, 0, 9)
    assert found.id == "tick"
