"""Groups on a cluster, over a Redis that lost everything or started again, and of jobs that schedulers make."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import redis
from redis.crc import key_slot

from tests.journeys.test_groups import group_of, keys_of_groups, of, put, state
from tests.support.cluster import SLOTS, start_nodes
from tests.support.endpoint import Answer, Call, Endpoint, reply_json
from tests.support.gateway import Gateway
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

StartValkey = Callable[..., ValkeyProcess]
StartToril = Callable[..., TorilProcess]


class Gated(Endpoint):
    """An endpoint that answers once its gate is open, and knows the most calls of a group and path at once."""

    def __init__(self) -> None:
        super().__init__(self._behave)
        self.most: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self.door = self.gate()

    async def _behave(self, call: Call) -> Answer:
        name = f"{call.target} {group_of(call)}"
        self._running[name] += 1
        self.most[name] = max(self.most[name], self._running[name])
        await self.door.passed()
        self._running[name] -= 1
        return reply_json("done")


def nothing_left(store: redis.Redis, queue: str) -> None:
    eventually(lambda: keys_of_groups(store, queue) == [], what=f"no key of a group of {queue} is left")


def test_groups_hold_on_every_node_of_a_cluster_and_for_several_instances(
    start_valkey: StartValkey, start_toril: StartToril
) -> None:
    nodes = start_nodes(start_valkey, 3)
    environment = {
        "REDIS_CLUSTER": "true",
        "WORKER_METADATA_KEY": "{bmqp}:w:meta",
        "WORKER_METADATA_STREAM": "{bmqp}:w:stream",
    }
    fleet = [start_toril(node, env=environment) for node in nodes[:2]]
    gateway, other = fleet[0].gateway, fleet[1].gateway
    candidates = [f"{{q{number}}}" for number in range(12)]
    homes = {queue: key_slot(f"bull:{queue}:wait".encode()) * 3 // SLOTS for queue in candidates}
    queues = [next(queue for queue in candidates if homes[queue] == home) for home in range(3)]
    with Gated() as endpoint:
        for queue in queues:
            put(gateway, queue, "a", max_waiting=3)
            gateway.register(queue, endpoint.at(f"/{homes[queue]}"), concurrency=5, group={"concurrency": 1})
            gateway.add(queue, *(of("a") for _ in range(3)))
        endpoint.wait_for_calls(len(queues))
        for queue in queues:
            gateway.add(queue, of("a"), of("b"))
            refused = other.http.post(f"/queues/{queue}/jobs", json=[of("b"), of("a")])
            assert (refused.status_code, refused.headers["toril-code"]) == (429, "group_full")
            assert (state(other, queue, "a")["waiting"], state(other, queue, "a")["active"]) == (3, 1)
        endpoint.wait_for_calls(2 * len(queues))
        endpoint.door.open()
        for queue in queues:
            gateway.wait_for_counts(queue, completed=5)
            assert gateway.http.delete(f"/queues/{queue}/groups/a").status_code == 204
        assert set(endpoint.most.values()) == {1}
    for queue in queues:
        nothing_left(nodes[homes[queue]].client(), queue)


def test_groups_begin_anew_once_redis_has_lost_everything(start_valkey: StartValkey, start_toril: StartToril) -> None:
    valkey, queue = start_valkey(), "flushed"
    store, gateway = valkey.client(), start_toril(valkey).gateway
    with Gated() as endpoint:
        put(gateway, queue, "a", weight=3)
        gateway.register(queue, endpoint.url, concurrency=5, group={"concurrency": 1})
        gateway.add(queue, *(of("a") for _ in range(3)))
        endpoint.wait_for_calls(1)
        store.flushall()
        assert keys_of_groups(store, queue) == []
        assert state(gateway, queue, "a")["limits"].get("weight") in {None, 1}
        gateway.register(queue, endpoint.url, concurrency=5, group={"concurrency": 1})
        jobs = gateway.add(queue, *(of("a") for _ in range(3)), of("b"))
        # The slot of the lost job is gone with it, so one more of its group runs than the endpoint has ended.
        endpoint.wait_for_calls(3)
        endpoint.door.open()
        for each in jobs:
            gateway.finished(queue, each["id"])
        assert len(endpoint.calls) == 5, "the two others of the first jobs are lost"
    nothing_left(store, queue)


def test_groups_go_on_over_a_restart_of_redis(start_valkey: StartValkey, start_toril: StartToril) -> None:
    valkey, queue = start_valkey(aof=True), "restarted"
    gateway = start_toril(valkey).gateway
    with Gated() as endpoint:
        put(gateway, queue, "paused")
        gateway.http.post(f"/queues/{queue}/groups/paused/pause").raise_for_status()
        gateway.register(queue, endpoint.url, concurrency=5, group={"concurrency": 1})
        gateway.add(queue, *(of("a") for _ in range(4)), of("b"), of("paused"))
        endpoint.wait_for_calls(2)
        valkey.kill()
        valkey.start()
        store = valkey.client()

        def found() -> tuple[Any, ...]:
            answer = gateway.http.get(f"/queues/{queue}/groups/a")
            return (answer.json()["waiting"], answer.json()["active"]) if answer.status_code == 200 else ()

        eventually(lambda: found() == (3, 1), timeout_s=30, what="toril is connected again")
        endpoint.door.open()
        gateway.wait_for_counts(queue, completed=5)
        assert set(endpoint.most.values()) == {1}
        assert (state(gateway, queue, "paused")["waiting"], state(gateway, queue, "paused")["paused"]) == (1, True)
        assert gateway.http.delete(f"/queues/{queue}/groups/paused").status_code == 204
        gateway.wait_for_counts(queue, completed=6)
    nothing_left(store, queue)


def test_what_a_scheduler_makes_is_of_its_group_and_never_refused(
    gateway: Gateway, queue: str, store: redis.Redis
) -> None:
    put(gateway, queue, "a", concurrency=1, max_waiting=1)
    gateway.http.post(f"/queues/{queue}/groups/a/pause").raise_for_status()
    gateway.add(queue, of("a"))
    template = {"name": "beat", "data": {"n": 1}, "opts": {"group": {"id": "a"}}}
    made = gateway.http.put(f"/queues/{queue}/schedulers/beat", json={"every": 1000, "limit": 2, "template": template})
    assert made.status_code == 200, made.text
    with Endpoint() as endpoint:
        gateway.register(queue, endpoint.url)
        eventually(lambda: state(gateway, queue, "a")["waiting"] == 2, what="the scheduler's job is held in its group")
        assert gateway.counts(queue)["delayed"] == 2
        gateway.http.post(f"/queues/{queue}/groups/a/resume").raise_for_status()
        gateway.wait_for_counts(queue, completed=3)
        assert {group_of(call) for call in endpoint.calls} == {"a"}
        assert endpoint.max_concurrent == 1
    assert gateway.http.delete(f"/queues/{queue}/groups/a").status_code == 204
    nothing_left(store, queue)
    gateway.unregister(queue)
