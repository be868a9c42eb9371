"""On a Redis Cluster: three real nodes, queues with hash tags of their own, so in different slots."""

import base64
import json
from collections.abc import Callable

import pytest
import redis
from redis.crc import key_slot

from tests.support.endpoint import Endpoint, hang, respond
from tests.support.ports import free_port
from tests.support.proxq import Backend, Proxq, StartProxq
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


def test_the_async_proxy_works_with_all_it_keeps_in_redis(
    nodes: list[ValkeyProcess], start_proxq: StartProxq, backend: Backend
) -> None:
    document = {
        "queue": "{default}",
        "concurrency": 1,
        "cache": {"mode": "redis"},
        "callback": {"secrets": [f"whsec_{base64.b64encode(bytes(32)).decode()}"]},
        "upstreams": [{"prefix": "/api", "url": backend.url}, {"prefix": "/other", "url": backend.url}],
    }
    one, two = (start_proxq(node, document, env=ENVIRONMENT) for node in nodes[:2])
    path, told = backend.path(respond(body=b"large" * 100_000)), backend.path()
    for number in range(4):  # cached answers and keys have slots of their own
        target, key = f"/api{path}?n={number}", ("Idempotency-Key", f"{path}{number}")
        first, second = done(one, target), done(two, target)
        assert [two.content(job_id).value("x-cache-status") for job_id in (first, second)] == ["MISS", "HIT"]
        assert one.content(second).body == b"large" * 100_000
        keyed = one.submit("POST", f"/other{path}", [key], b"body")
        assert two.submit("POST", f"/other{path}", [key], b"body") == keyed
    job_id = one.submit("GET", f"/other{path}", [("X-Toril-Callback", f"{backend.url}{told}")])
    assert json.loads(backend.called(told)[0].body)["data"]["id"] == job_id

    waiting = backend.path(hang())
    ids = [one.submit("GET", f"/api{waiting}?n={number}") for number in range(2)]
    calls = backend.called(waiting, 2)  # one in each instance
    for job_id in ids:
        assert two.cancel(job_id).status == 200
    eventually(lambda: all(backend.endpoint.gone(call) for call in calls), timeout_s=20, what="both to be broken off")


def done(proxq: Proxq, target: str) -> str:
    """The id of a job that has completed."""
    job_id = proxq.submit("GET", target)
    proxq.is_in(job_id, "completed")
    return job_id


def test_upstreams_whose_queues_have_no_hash_tag_are_refused(
    valkey: ValkeyProcess, start_proxq: StartProxq, backend: Backend
) -> None:
    with pytest.raises(AssertionError, match=r"with redis\.cluster, queue needs a hash tag"):
        start_proxq(valkey, {"queue": "default", "upstreams": [{"prefix": "/", "url": backend.url}]}, env=ENVIRONMENT)


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
