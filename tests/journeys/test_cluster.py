"""On a Redis Cluster: three real nodes, queues with their own hash tags, so in different slots."""

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import httpx
import pytest
from redis.crc import key_slot

from tests.support.cluster import SLOTS, SlotMove, home_of, replicate, start_nodes
from tests.support.deliveries import LATER, Door, configuration, ledger_in, recovered
from tests.support.endpoint import Endpoint, hang, respond
from tests.support.gateway import PLAIN, TOKEN
from tests.support.proxq import Backend, Proxq, StartProxq
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril.delivery.rules.delivery import queue_of

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
    return start_nodes(start_valkey, 3)


def test_jobs_of_queues_on_every_node_are_pushed_and_completed(
    nodes: list[ValkeyProcess], start_toril: StartToril, endpoint: Endpoint
) -> None:
    toril = start_toril(nodes[0], env=ENVIRONMENT)
    assert "redis.connect_failed" not in toril.log(), "it connects to nodes when it knows them"
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
    move = move_of(nodes, "moving").begin().move().end()

    one = toril.gateway.add_one(queue, {"after": "the move"})
    assert toril.gateway.finished(queue, one)["returnvalue"] == {"done": True}
    several = toril.gateway.add(queue, {"name": "a", "data": 1}, {"name": "b", "data": 2})
    assert toril.gateway.finished(queue, several[1]["id"])["returnvalue"] == {"done": True}
    assert move.keys_left() == []


class Load:
    """Threads that add jobs to some queues and lease those of one, for as long as a block lasts."""

    def __init__(self, url: str, queues: Iterable[str], pulled: str) -> None:
        self.added: dict[str, list[str]] = {queue: [] for queue in queues}
        self.refused = dict.fromkeys(self.added, 0)
        self.done: list[str] = []
        self._url = url
        self._pulled = pulled
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._threads = ThreadPoolExecutor(len(self.added) + 1)
        self._work = [self._threads.submit(self._add, queue) for queue in self.added]
        self._work.append(self._threads.submit(self._pull))
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with self._threads:
            for one in self._work:
                one.result(60)

    def goes_on(self, *queues: str, count: int = 20) -> None:
        """Wait until so many more jobs have been added to each of these queues."""
        wanted = {queue: len(self.added[queue]) + count for queue in queues}
        eventually(lambda: all(len(self.added[queue]) >= most for queue, most in wanted.items()), timeout_s=30)

    def _client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {TOKEN}"}
        return httpx.Client(base_url=self._url, headers=headers, timeout=40, trust_env=False, verify=PLAIN)

    def _add(self, queue: str) -> None:
        with self._client() as http:
            while not self._over.is_set():
                answer = http.post(f"/queues/{queue}/jobs", json=[{"name": "n", "data": queue}])
                assert answer.status_code in (200, 503), answer.text
                if answer.status_code == 200:
                    self.added[queue].append(answer.json()[0]["id"])
                else:
                    self.refused[queue] += 1

    def _pull(self) -> None:
        with self._client() as http:
            while not (self._over.is_set() and len(self.done) >= len(self.added[self._pulled])):
                leased = http.post(f"/queues/{self._pulled}/lease", json={"count": 5, "wait_ms": 200})
                assert leased.status_code in (200, 503), leased.text
                for one in leased.json()["jobs"] if leased.status_code == 200 else ():
                    self._complete(http, one["job"]["id"], one["token"])

    def _complete(self, http: httpx.Client, job_id: str, token: str) -> None:
        path, headers = f"/queues/{self._pulled}/jobs/{job_id}/complete", {"authorization": f"Bearer {token}"}
        while (answer := http.post(path, json={"returnvalue": 1}, headers=headers)).status_code == 503:
            pass
        assert answer.status_code == 204, answer.text
        self.done.append(job_id)


def test_no_job_is_lost_or_done_twice_while_its_slot_is_moved_under_load(
    nodes: list[ValkeyProcess], start_toril: StartToril, endpoint: Endpoint
) -> None:
    toril = start_toril(nodes[0], env=ENVIRONMENT | {"TORIL_REDIS_COMMAND_TIMEOUT": "20s"})
    moving, staying, pulled = "{moving}", "{staying}", "{moving}pulled"
    for queue in (moving, staying):
        toril.gateway.register(queue, endpoint.url, concurrency=5)
    with Load(toril.url, (moving, staying, pulled), pulled) as load:
        load.goes_on(*load.added)
        move = move_of(nodes, "moving").begin()
        for _ in range(20):  # some of the keys are here and some there, for a while
            move.move(*move.keys_left()[:30])
            load.goes_on(staying, count=1)
            one = load.added[moving][0]
            assert toril.gateway.job(moving, one)["id"] == one, "it is read where it is"
        move.move().end()
        load.goes_on(*load.added)
    assert not any(load.refused.values()), "what needs several keys has waited for the end of the move"
    assert sorted(load.done) == sorted(load.added[pulled]), "each was completed once"
    for queue in (moving, staying):
        toril.gateway.wait_for_counts(queue, completed=len(load.added[queue]), waiting=0, active=0, timeout_s=30)
    calls = Counter(call.json["job"]["data"] for call in endpoint.calls)
    assert calls == {queue: len(load.added[queue]) for queue in (moving, staying)}


def move_of(nodes: list[ValkeyProcess], tag: str) -> SlotMove:
    """The move of a tag's slot to the next master."""
    slot = key_slot(tag.encode())
    home = home_of(slot, len(nodes))
    return SlotMove(nodes, slot, home, (home + 1) % len(nodes))


@pytest.mark.parametrize("end", [ValkeyProcess.kill, ValkeyProcess.pause], ids=["dies", "is cut off"])
def test_the_failover_of_one_node_is_followed(
    nodes: list[ValkeyProcess],
    start_valkey: StartValkey,
    start_toril: StartToril,
    endpoint: Endpoint,
    end: Callable[[ValkeyProcess], None],
) -> None:
    replica = replicate(start_valkey, nodes, 0)
    queue = next(
        name for number in range(99) if home_of(key_slot(f"bull:{(name := f'{{q{number}}}')}".encode()), 3) == 0
    )
    toril = start_toril(nodes[1], env=ENVIRONMENT | {"TORIL_REDIS_COMMAND_TIMEOUT": "2s"})
    toril.gateway.register(queue, endpoint.url)
    toril.gateway.finished(queue, toril.gateway.add_one(queue))
    end(nodes[0])
    answers: list[int] = []

    def added() -> bool:
        answers.append(toril.client.post(f"/queues/{queue}/jobs", json=[{"name": "n", "data": 1}]).status_code)
        return answers[-1] == 200

    eventually(added, timeout_s=30)
    assert set(answers) <= {200, 503}
    # The wait for jobs has moved as well: nothing but its marker starts this one.
    assert toril.gateway.finished(queue, toril.gateway.add_one(queue))["returnvalue"] == {"done": True}
    assert replica.client().execute_command("ROLE")[0] == "master"


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
    for number in range(4):  # cached answers and keys have their own slots
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
    eventually(lambda: all(backend.endpoint.gone(call) for call in calls), timeout_s=30, what="both to be broken off")


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


def test_recover_puts_back_what_a_cluster_has_lost(
    nodes: list[ValkeyProcess], start_toril: StartToril, tmp_path: Path
) -> None:
    environment = ENVIRONMENT | {"QUEUE_PREFIX": "{bull}"}
    file = configuration(tmp_path / "toril.yaml", {"billing": "http://127.0.0.1:1"}, **ledger_in(tmp_path))
    arguments = ["--config", str(file)]
    toril = start_toril(nodes[0], env=environment, args=arguments)
    job_id = Door(toril.gateway).enqueue("billing", **LATER)
    toril.terminate()
    for node in nodes:
        node.client().flushall()
    said = recovered(arguments, environment | {"REDIS_URL": nodes[0].url})
    assert said.startswith("billing: 1 put back into the queue")
    assert any(f"{{bull}}:{queue_of('billing')}:{job_id}" in node.client().keys("*") for node in nodes)
