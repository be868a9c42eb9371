"""Groups in Redis: the scripts choose as the rules in Python do, whatever happens before; slots never leak."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec import Raw

from tests.conformance.group_histories import Both
from tests.conformance.worlds import RealWorld, announcements_of, real_world
from tests.conformance.worlds import control_of as queue_control_of
from tests.support.redis62 import redis_6_2
from tests.support.valkey import ValkeyProcess
from toril.bullmq.cancelling import Cancelling
from toril.bullmq.flows import Flows
from toril.bullmq.groups.control import GroupControl
from toril.bullmq.inspector import Inspector
from toril.bullmq.job_actions import JobActions
from toril.bullmq.rules.flow import FlowJob
from toril.bullmq.rules.groups import GroupLimits, GroupOption
from toril.bullmq.rules.job import JobOptions
from toril.core.errors import GroupFull
from toril.core.group_limits import GroupDefault
from toril.core.lease import Lease, NoJob
from toril.core.verdict import Complete, Fail, Retry
from toril.engine.ports import LeaseStore

DONE = Complete(b"1")
AGAIN = Retry(0, "no", "trace")
FAILED = Fail("no", "trace")
FLAG = "toril:groups"


def control_of(world: RealWorld) -> GroupControl:
    """The groups of the queues on this Valkey."""
    return GroupControl(world.scripts, "bull", world.book.defaults)


async def add(world: RealWorld, job_id: str, group: str | int | None, priority: int = 0, **opts: Any) -> None:
    """Add a job of a group, or of none."""
    given = {} if group is None else {"group": {"id": group, "priority": priority}}
    await world.add(job_id, opts=given | opts)


async def taken(store: LeaseStore, token: bytes = b"us:1") -> Lease:
    """Take a job that must be there."""
    found = await store.take(token)
    assert isinstance(found, Lease), found
    return found


async def promote(world: RealWorld, job_id: str) -> None:
    """Promote a held job, as a dashboard does."""
    script = world.scripts.promote
    assert await world.scripts.call(script, world.keys, world.keys.prefix, job_id) == 0


async def left(world: RealWorld) -> list[bytes]:
    """The keys that groups have left in Redis, and the flag in meta."""
    keys = [key async for key in _scan(world)]
    flag = await world.link.call("HEXISTS", world.keys.key("meta"), FLAG)
    return sorted(keys) + ([b"flag"] if flag else [])


async def _scan(world: RealWorld) -> Any:
    cursor = b"0"
    while True:
        cursor, found = await world.link.call("SCAN", cursor, "MATCH", world.keys.key("toril:groups*"), "COUNT", 1000)
        for key in found:
            yield key
        if cursor == b"0":
            return


class InRedis:
    """A `GroupedQueue` on a real Valkey."""

    def __init__(self, world: RealWorld) -> None:
        self._world = world
        self.queue = world.queue
        self.store: LeaseStore = world.store
        self.control = control_of(world)

    def follow(self, default: Callable[[], GroupDefault]) -> None:
        self._world.book.defaults.follow(lambda _: default())

    async def add(self, job_id: str, group: str | None, priority: int) -> None:
        await add(self._world, job_id, group, priority)

    async def lapse(self, lease: Lease) -> None:
        await self._world.lapse(lease.job_id)
        await self._world.pass_time(0.01)
        await self._world.store.recover_abandoned()

    async def promote(self, job_id: str) -> bool:
        await promote(self._world, job_id)
        return True


HISTORIES = 60


async def test_the_scripts_choose_as_the_rules_do_whatever_came_before(valkey: ValkeyProcess, queue: str) -> None:
    for seed in range(HISTORIES):
        async with real_world(valkey, f"{queue}-{seed}") as world:
            both = Both(InRedis(world), seed)
            try:
                for _ in range(60):
                    await both.step()
                await both.finish()
            except AssertionError as exc:
                raise AssertionError(f"history {seed}") from exc
            assert await left(world) == [], seed


async def test_the_scripts_choose_so_in_redis_6_2_too(tmp_path: Path, queue: str) -> None:
    with ValkeyProcess(tmp_path / "redis", binary=redis_6_2()) as server:
        for seed in range(10):
            async with real_world(server, f"{queue}-{seed}") as world:
                both = Both(InRedis(world), seed)
                for _ in range(60):
                    await both.step()
                await both.finish()
                assert await left(world) == [], seed


async def test_held_jobs_are_delayed_jobs_that_no_time_promotes(world: RealWorld) -> None:
    await add(world, "held", "a")
    assert await world.places(b"held") == ["delayed"]
    await world.pass_time(10 * 365 * 86400)
    await add(world, "plain", None)
    assert (await taken(world.under(), b"us:2")).job_id == b"held"


async def test_a_queue_without_groups_has_no_key_of_theirs_and_uses_the_scripts_without(world: RealWorld) -> None:
    await add(world, "plain", None)
    lease = await taken(world.store)
    await world.store.complete(lease, DONE, fetch_next=True)
    assert await left(world) == []
    assert not world.store._has_groups  # type: ignore[attr-defined]


async def test_a_job_that_another_program_adds_is_taken_in_when_it_is_seen(world: RealWorld) -> None:
    world.book.defaults.follow(lambda _: GroupDefault(concurrency=1))
    for number in range(3):
        await _added_by_node(world, f"node-{number}", "a")
    first = await taken(world.store)
    assert first.job_id == b"node-0"
    assert (await world.fields(b"node-0"))[b"ats"] == b"1"
    assert isinstance(await world.store.take(b"us:2"), NoJob)
    assert await world.places(b"node-1") == ["delayed"]
    following = await world.store.complete(first, DONE, fetch_next=True)
    assert isinstance(following, Lease)
    assert following.job_id == b"node-1"


@pytest.mark.parametrize("group", [".", "..", "a\n", "a\x85", "", "x" * 257, "é" * 257])
async def test_an_id_that_toril_refuses_is_no_group_where_another_program_adds_it(world: RealWorld, group: str) -> None:
    await _added_by_node(world, "job", group)
    await add(world, "grouped", "a")
    names = {(await taken(world.store, b"us:%d" % number)).job_id for number in range(2)}
    assert names == {b"job", b"grouped"}
    found, _ = await control_of(world).page(world.queue, "", 10, lambda _: True)
    assert [one.id for one in found] == ["a"]


@pytest.mark.parametrize("group", ["x" * 256, "é" * 256, "👧" * 256, "👩\u200d👧", "a\u00a0b", "...", "%", "à\u2028"])
async def test_any_other_id_is_a_group_where_another_program_adds_it(world: RealWorld, group: str) -> None:
    await _added_by_node(world, "job", group)
    await add(world, "grouped", "a")
    await taken(world.store)
    await taken(world.store, b"us:2")
    found, _ = await control_of(world).page(world.queue, "", 10, lambda _: True)
    assert {one.id for one in found} == {group, "a"}


async def _added_by_node(world: RealWorld, job_id: str, group: str) -> None:
    """Add a job as Node's BullMQ does, which knows nothing of groups."""
    await world.add(job_id)
    options = json.dumps({"attempts": 0, "group": {"id": group}})
    await world.link.call("HSET", world.keys.key(job_id), "opts", options)


async def test_a_delayed_job_of_a_group_is_held_when_it_is_due(world: RealWorld) -> None:
    control = control_of(world)
    await control.pause(world.queue, "a")
    await add(world, "other", "b")
    await world.add("later", opts={"group": {"id": "a"}}, delay_s=5)
    await world.pass_time(6)
    assert (await taken(world.store)).job_id == b"other"
    assert isinstance(await world.store.take(b"us:2"), NoJob)
    assert (await control.get(world.queue, "a")).waiting == 1


async def test_a_held_job_whose_delay_a_person_changes_waits_for_it_and_then_for_its_group(world: RealWorld) -> None:
    control = control_of(world)
    actions = JobActions(world.scripts, "bull", world.now, world.scripts)
    for name in ("first", "second", "third"):
        await add(world, name, "a")
    await actions.change_delay(world.queue, "first", 5000)
    assert (await taken(world.store)).job_id == b"second"
    await actions.change_delay(world.queue, "third", 5000)
    await control.pause(world.queue, "a")
    await world.pass_time(6)
    await add(world, "other", "b")
    assert (await taken(world.store, b"us:2")).job_id == b"other"
    assert isinstance(await world.store.take(b"us:3"), NoJob), "the group is paused, and nobody promoted them"
    await control.resume(world.queue, "a")
    assert [(await taken(world.store, b"us:%d" % number)).job_id for number in (4, 5)] == [b"first", b"third"]
    assert isinstance(await world.store.take(b"us:6"), NoJob)


async def test_a_slot_is_free_once_the_lock_of_its_job_has_lapsed(world: RealWorld) -> None:
    world.book.defaults.follow(lambda _: GroupDefault(concurrency=1))
    await add(world, "first", "a")
    await add(world, "second", "a")
    lease = await taken(world.book.of(world.queue, world.store._rules, 60))  # type: ignore[attr-defined]
    assert lease.job_id == b"first"
    waiting = await world.store.take(b"us:2")
    assert isinstance(waiting, NoJob)
    assert waiting.next_at_s > 0, "it says when to look again"
    await asyncio.sleep(0.07)
    assert (await taken(world.store, b"us:3")).job_id == b"second"


async def test_the_slots_of_many_lapsed_locks_are_freed_some_at_a_time(world: RealWorld) -> None:
    for number in range(700):
        await add(world, f"j-{number}", f"g{number % 3}")
        await taken(world.store, b"us:%d" % number)
    locks = [world.keys.key(f"j-{number}:lock") for number in range(700)]
    await world.link.call("DEL", world.keys.key("active"), *locks)
    await world.link.call("HSET", world.keys.key("toril:groups"), "look", 0)
    await add(world, "last", "g0")
    await taken(world.store, b"us:last")
    slots = world.keys.key("toril:groups:slots")
    assert 1 < await world.link.call("HLEN", slots) < 700
    look_ms = float(await world.link.call("HGET", world.keys.key("toril:groups"), "look"))
    assert look_ms < world.now() * 1000 + 3_600_000, "the last one is looked at, too"
    for _ in range(10):
        await world.store.take(b"us:again")
    assert await world.link.call("HKEYS", slots) == [b"last"]


async def test_jobs_that_run_when_their_group_gets_a_limit_are_counted(world: RealWorld) -> None:
    control = control_of(world)
    leases = []
    for number in range(3):
        await add(world, f"j-{number}", "a")
        await add(world, f"o-{number}", "b")
        leases += [await taken(world.store, b"us:%d" % number), await taken(world.store, b"us:o%d" % number)]
    await control.set_limits(world.queue, "a", GroupLimits(concurrency=3), paused=None)
    await add(world, "j-3", "a")
    assert isinstance(await world.store.take(b"us:3"), NoJob)
    await add(world, "o-3", "b")
    assert (await taken(world.store, b"us:4")).job_id == b"o-3", "the other group has no limit"
    following = await world.store.complete(leases[0], DONE, fetch_next=True)
    assert isinstance(following, Lease)
    assert following.job_id == b"j-3"


async def test_jobs_that_run_when_the_worker_gets_a_default_limit_are_counted(world: RealWorld) -> None:
    for number in range(2):
        await add(world, f"j-{number}", "a")
    lease = await taken(world.store)
    world.book.defaults.follow(lambda _: GroupDefault(concurrency=1))
    assert isinstance(await world.store.take(b"us:2"), NoJob)
    following = await world.store.complete(lease, DONE, fetch_next=True)
    assert isinstance(following, Lease)


async def test_limits_that_are_removed_leave_nothing(world: RealWorld) -> None:
    control = control_of(world)
    await control.set_limits(world.queue, "a", GroupLimits(weight=2), paused=True)
    await control.set_limits(world.queue, "b", GroupLimits(concurrency=2), paused=None)
    await control.remove_limits(world.queue, "b")
    await add(world, "held", "a")
    assert isinstance(await world.store.take(b"us:1"), NoJob)
    await control.remove_limits(world.queue, "a")
    lease = await taken(world.store)
    await world.store.complete(lease, DONE, fetch_next=True)
    await control.set_limits(world.queue, "a", GroupLimits(weight=2), paused=True)
    await control.remove_limits(world.queue, "a")
    assert await left(world) == []


async def test_a_group_joins_the_member_of_its_name_and_both_take_turns(world: RealWorld) -> None:
    for number in range(3):
        await add(world, f"t-{number}", "t")
    assert (await taken(world.store)).job_id == b"t-0"
    await add(world, "x-0", "t/x")
    await add(world, "x-1", "t/x")
    order = [(await taken(world.store, b"us:%d" % number)).job_id for number in range(2, 6)]
    assert order == [b"t-1", b"x-0", b"t-2", b"x-1"]


async def test_a_renewed_lock_keeps_its_slot(world: RealWorld) -> None:
    world.book.defaults.follow(lambda _: GroupDefault(concurrency=1))
    await add(world, "first", "a")
    await add(world, "second", "a")
    store = world.book.of(world.queue, world.store._rules, 60)  # type: ignore[attr-defined]
    lease = await taken(store)
    await world.link.call("PEXPIRE", world.keys.key(b"first:lock"), 30_000)
    await asyncio.sleep(0.07)
    assert isinstance(await store.take(b"us:2"), NoJob)
    await store.complete(lease, DONE, fetch_next=False)
    assert (await taken(store, b"us:3")).job_id == b"second"


async def test_all_held_jobs_get_out(world: RealWorld) -> None:
    for number in range(250):
        await add(world, f"j-{number}", f"g{number % 7}")
    assert await control_of(world).release(world.queue) == 250
    assert len(await world.waiting()) == 250
    assert await left(world) == []
    assert await world.link.call("ZCARD", world.keys.key("delayed")) == 0


async def test_no_more_are_added_than_may_wait_one_by_one_or_together(world: RealWorld) -> None:
    control = control_of(world)
    await control.set_limits(world.queue, "a", GroupLimits(max_waiting=2), paused=None)
    await add(world, "one", "a")
    await add(world, "two", "a")
    with pytest.raises(GroupFull):
        await add(world, "three", "a")
    assert await world.fields(b"three") == {}
    await add(world, "two", "a")  # it is there already
    await world.link.call("ZREM", world.keys.key("delayed"), "one")
    await world.link.call("DEL", world.keys.key("one"))
    await add(world, "four", "a")  # a removed job leaves room


async def test_a_flow_is_refused_as_a_whole_where_a_group_is_full(world: RealWorld) -> None:
    await control_of(world).set_limits(world.queue, "a", GroupLimits(max_waiting=2), paused=None)
    inspector = Inspector(world.scripts, "bull")
    actions = JobActions(world.scripts, "bull", world.now, world.scripts)
    flows = Flows(world.scripts, world.producer, inspector, actions, "bull")

    def tree(children: int) -> FlowJob:
        options = JobOptions(group=GroupOption("a"))
        child = FlowJob("child", world.queue, Raw(b"1"), options)
        below = [child for _ in range(children)]
        return FlowJob("parent", world.queue, Raw(b"1"), options, below).identified(lambda: str(uuid4()))

    with pytest.raises(GroupFull):
        await flows.add([tree(3)], 0)
    assert await world.link.call("ZCARD", world.keys.key("waiting-children")) == 0
    await flows.add([tree(2)], 0)


async def test_jobs_that_are_gone_hold_up_nothing_and_leave_nothing(world: RealWorld) -> None:
    for number in range(3):
        await add(world, f"j-{number}", "a")
    await world.link.call("DEL", world.keys.key("delayed"), *(world.keys.key(f"j-{number}") for number in range(3)))
    await add(world, "real", "a")
    lease = await taken(world.store)
    assert lease.job_id == b"real"
    await world.store.complete(lease, DONE, fetch_next=False)
    assert isinstance(await world.store.take(b"us:2"), NoJob)
    assert await left(world) == []


async def test_an_id_without_a_hash_is_dropped_and_holds_no_slot(world: RealWorld) -> None:
    world.book.defaults.follow(lambda _: GroupDefault(concurrency=1))
    await add(world, "bare", "a")
    await add(world, "real", "a")
    await world.lose_hash(b"bare")
    assert (await taken(world.store)).job_id == b"real"


async def test_an_obliterated_queue_leaves_no_group(world: RealWorld) -> None:
    await control_of(world).set_limits(world.queue, "a", GroupLimits(concurrency=1), paused=True)
    await add(world, "held", "a")
    await add(world, "runs", "b")
    await taken(world.store)
    await queue_control_of(world).obliterate(world.queue, force=True)
    assert await left(world) == []


async def test_a_cancelled_job_frees_its_slot_at_once(world: RealWorld) -> None:
    world.book.defaults.follow(lambda _: GroupDefault(concurrency=1))
    await add(world, "first", "a")
    await add(world, "second", "a")
    await taken(world.store)
    assert isinstance(await world.store.take(b"us:2"), NoJob)
    await Cancelling(world.scripts, "bull", announcements_of(world)).cancel(world.queue, "first")
    assert await world.link.call("ZSCORE", world.keys.key("marker"), "0") is not None, "others are woken"
    assert (await taken(world.store, b"us:3")).job_id == b"second"
