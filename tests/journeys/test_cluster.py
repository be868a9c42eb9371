"""On a Redis Cluster: three real nodes, queues with hash tags of their own, so in different slots."""

from collections.abc import Callable

import pytest
import redis
from redis.crc import key_slot

from tests.support.endpoint import Endpoint
from tests.support.ports import free_port
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

SLOTS = 16384
ENVIRONMENT = {
    "REDIS_CLUSTER": "true",
    "WORKER_METADATA_KEY": "{bmqp}:w:meta",
    "WORKER_METADATA_STREAM": "{bmqp}:w:stream",
    "TORIL_POLL_INTERVAL": "60s",
}

StartValkey = Callable[..., ValkeyProcess]
StartToril = Callable[..., TorilProcess]


@pytest.fixture
def nodes(start_valkey: StartValkey) -> list[ValkeyProcess]:
    """Three masters that share the slots evenly."""
    started = [
        start_valkey(config={"cluster-enabled": "yes", "cluster-node-timeout": 2000, "cluster-port": free_port()})
        for _ in range(3)
    ]
    first, *others = [node.client() for node in started]
    for number, client in enumerate((first, *others)):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1)
    for node in started[1:]:
        bus = int(node.client().config_get("cluster-port")["cluster-port"])
        first.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
    for client in (first, *others):
        eventually(lambda client=client: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
    eventually(lambda: all(len(client.execute_command("CLUSTER SLOTS")) == 3 for client in (first, *others)))
    return started


def test_jobs_of_queues_on_every_node_are_pushed_and_completed(
    nodes: list[ValkeyProcess], start_toril: StartToril, endpoint: Endpoint
) -> None:
    toril = start_toril(nodes[0], env=ENVIRONMENT)
    queues = [f"{{q{number}}}" for number in range(12)]
    homes = {key_slot(f"bull:{queue}:wait".encode()) * 3 // SLOTS for queue in queues}
    assert homes == {0, 1, 2}
    for queue in queues:
        toril.gateway.register(queue, endpoint.url)
    for _ in range(2):  # the second round finds the consumers asleep, so the markers must wake them
        jobs = [(queue, toril.gateway.add_one(queue, {"of": queue})) for queue in queues]
        for queue, job_id in jobs:
            assert toril.gateway.finished(queue, job_id)["returnvalue"] == {"done": True}
    bulk = toril.gateway.add(queues[0], *({"name": "n", "data": number} for number in range(50)))
    for job in bulk:
        toril.gateway.finished(queues[0], job["id"])


def test_a_queue_whose_slot_moves_to_another_node_goes_on(
    nodes: list[ValkeyProcess], start_toril: StartToril, endpoint: Endpoint
) -> None:
    toril = start_toril(nodes[0], env=ENVIRONMENT)
    queue = "{moving}"
    toril.gateway.register(queue, endpoint.url, removeOnComplete={"count": 1})
    toril.gateway.finished(queue, toril.gateway.add_one(queue))
    slot = key_slot(b"moving")
    clients = [node.client() for node in nodes]
    home = slot * 3 // SLOTS
    target = (home + 1) % 3
    _migrate(clients[home], clients[target], nodes[target].port, slot)
    target_id = clients[target].execute_command("CLUSTER MYID")
    for client in (clients[target], clients[home], *clients):
        client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    one = toril.gateway.add_one(queue, {"after": "the move"})
    assert toril.gateway.finished(queue, one)["returnvalue"] == {"done": True}
    several = toril.gateway.add(queue, {"name": "a", "data": 1}, {"name": "b", "data": 2})
    assert toril.gateway.finished(queue, several[1]["id"])["returnvalue"] == {"done": True}
    assert clients[target].exists(f"bull:{queue}:meta")


def _migrate(source: redis.Redis, target: redis.Redis, port: int, slot: int) -> None:
    """Move every key of a slot, as `redis-cli --cluster reshard` does."""
    source_id, target_id = (client.execute_command("CLUSTER MYID") for client in (source, target))
    target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    while keys := source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
        source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)


def test_a_queue_without_a_hash_tag_is_refused(nodes: list[ValkeyProcess], start_toril: StartToril) -> None:
    toril = start_toril(nodes[0], env=ENVIRONMENT)
    add = toril.gateway.http.request("POST", "/queues/orders/jobs", json=[{"name": "n", "data": 1}])
    register = toril.gateway.http.request(
        "POST", "/workers", json={"queue": "orders", "endpoint": {"url": "http://127.0.0.1:4/", "method": "POST"}}
    )
    for answer in (add, register):
        assert answer.status_code == 400
        assert "hash tag, such as {orders}" in answer.text
    assert toril.gateway.http.get("/workers").json() == {}


def test_keys_of_the_worker_registry_need_one_hash_tag(start_toril: StartToril, start_valkey: StartValkey) -> None:
    with pytest.raises(AssertionError, match="need the same hash tag"):
        start_toril(start_valkey(), env={"REDIS_CLUSTER": "true"})
