"""Which queues of BullMQ a survey leaves out, on a real Valkey and on two nodes of a cluster."""

import asyncio
from typing import Any

import pytest

from tests.conformance.bullmq.links import address_of, quick
from tests.conformance.worlds import RealWorld
from tests.support.valkey import StartValkey
from toril.bullmq.leasing.queue_survey import RedisQueueSurvey
from toril.core.lease import Lease
from toril.redis.cluster import ClusterLinks
from toril.redis.resp import Wire


def survey_of(world: RealWorld) -> RedisQueueSurvey:
    return RedisQueueSurvey(world.link, "bull", world.now)


@pytest.mark.parametrize(
    "opts",
    [{}, {"lifo": True}, {"priority": 3}, {"group": {"id": "a"}}],
    ids=["fifo", "lifo", "prioritized", "grouped"],
)
async def test_a_job_that_a_look_can_lease_is_not_left_out(world: RealWorld, opts: dict[str, Any]) -> None:
    await world.add("a", opts=opts)
    assert await survey_of(world).with_jobs([world.queue]) == {world.queue: 0.0}
    assert isinstance(await world.store.take(b"us:1"), Lease)
    assert await survey_of(world).with_jobs([world.queue]) == {}


async def test_a_delayed_job_does_not_hide_a_held_job_that_may_start_now(world: RealWorld) -> None:
    survey = survey_of(world)
    await world.add("late", delay_s=500.0)
    await world.add("a", opts={"group": {"id": "a"}})
    assert await survey.with_jobs([world.queue]) == {world.queue: 0.0}


async def test_a_queue_that_no_job_was_ever_in_is_checked_once_which_makes_it_known(
    world: RealWorld,
) -> None:
    survey = survey_of(world)
    await world.link.call("DEL", world.keys.key("meta"))
    assert list(await survey.to_check([world.queue])) == [world.queue]
    assert await world.store.recover_stalled() == []
    assert await world.link.call("EXISTS", world.keys.key("meta")) == 1
    assert not await survey.to_check([world.queue])


async def test_one_call_surveys_many_queues_and_one_with_other_keys_hides_none(
    world: RealWorld,
) -> None:
    survey = survey_of(world)
    await world.add("a")
    odd = f"{world.queue}-odd"
    await world.link.call("SET", f"bull:{odd}:delayed", "no sorted set")
    others = [f"{world.queue}-{number}" for number in range(200)]
    assert await survey.with_jobs([*others, odd, world.queue]) == {odd: 0.0, world.queue: 0.0}
    for other in others:
        await world.link.call("HSET", f"bull:{other}:meta", "version", "bullmq:test")
    await world.link.call("LPUSH", f"bull:{others[7]}:active", "1")
    await world.link.call("SADD", f"bull:{others[9]}:stalled", "1")
    assert set(await survey.to_check([*others, world.queue])) == {others[7], others[9]}


async def test_queues_of_several_slots_of_a_cluster_are_surveyed_where_they_are(start_valkey: StartValkey) -> None:
    async def nothing(wire: Wire) -> None:
        pass

    nodes = [start_valkey(), start_valkey()]
    failure: BaseException | None = None
    async with asyncio.TaskGroup() as tasks:
        links = ClusterLinks(address_of(nodes[0]), quick(command_timeout_s=30.0), tasks, nothing)
        try:
            links._take([(0, 8191, ("127.0.0.1", nodes[0].port)), (8192, 16383, ("127.0.0.1", nodes[1].port))])
            queues = [f"{{q{number}}}" for number in range(20)]
            survey = RedisQueueSurvey(links, "bull", lambda: 0.0)
            for queue in queues[::2]:
                await links.of(f"bull:{queue}:".encode()).call("RPUSH", f"bull:{queue}:wait", "1")
            assert await survey.with_jobs(queues) == dict.fromkeys(queues[::2], 0.0)
            assert len({links.owner(links.group(f"bull:{queue}:".encode())) for queue in queues[::2]}) == len(nodes)
        except BaseException as exc:
            failure = exc
        for node in links._nodes.values():
            node.task.cancel()
    if failure is not None:
        raise failure
