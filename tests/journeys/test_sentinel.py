"""On a replicated Redis with real Sentinels: a failover moves everything to the new master."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.support.deliveries import LATER, Door, configuration, ledger_in, recovered
from tests.support.endpoint import Endpoint
from tests.support.redis62 import redis_6_2
from tests.support.sentinel import MASTER, Replicated
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually

# Only a marker or a reconnect starts jobs this quickly.
ENVIRONMENT = {"TORIL_POLL_INTERVAL": "60s", "TORIL_REDIS_COMMAND_TIMEOUT": "2s"}


class Adding:
    """A thread that adds jobs, one after the other, for as long as a block lasts."""

    def __init__(self, toril: TorilProcess, queue: str) -> None:
        self.acknowledged: list[str] = []
        self.refused: list[int] = []
        self._url = f"{toril.url}/queues/{queue}/jobs"
        self._headers = dict(toril.client.headers)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def until_more(self, count: int = 20) -> None:
        """Wait until so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        eventually(lambda: len(self.acknowledged) >= wanted, timeout_s=30, what="acknowledged jobs")

    def _run(self) -> None:
        with httpx.Client(headers=self._headers, timeout=30, trust_env=False) as client:
            while not self._ends.is_set():
                answer = client.post(self._url, json=[{"name": "n", "data": len(self.acknowledged)}])
                if answer.status_code == 200:
                    self.acknowledged.append(answer.json()[0]["id"])
                else:
                    self.refused.append(answer.status_code)


@pytest.fixture(params=["Valkey", "Redis 6.2"])
def replicated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replicated]:
    binary = redis_6_2() if request.param == "Redis 6.2" else None
    with Replicated(tmp_path / "replicated", binary=binary) as made:
        yield made


@pytest.fixture
def toril(replicated: Replicated, tmp_path: Path) -> Iterator[TorilProcess]:
    with TorilProcess(replicated.url, tmp_path / "toril.log", env=ENVIRONMENT) as server:
        yield server
    assert server.complaints() == []


def connections(replicated: Replicated, at: int) -> set[str]:
    """The names of toril's connections to a server."""
    listed = replicated.servers[at].client().client_list()
    return {one["name"] for one in listed if one["name"].startswith(("toril", "bull:"))}


def moved(toril: TorilProcess, replicated: Replicated, endpoint: Endpoint, old_port: int) -> None:
    """Check that everything works on the new master, and that nothing is left at a server that was one."""
    toril.gateway.register("moved", endpoint.url)
    job = toril.gateway.finished("moved", toril.gateway.add_one("moved"))
    assert job["returnvalue"] == {"done": True}
    new = replicated.master
    assert new.port != old_port
    at = replicated.servers.index(new)
    eventually(lambda: {"toril", "toril:reading", "toril:registry"} <= connections(replicated, at))


def test_a_planned_failover_is_followed(toril: TorilProcess, replicated: Replicated, endpoint: Endpoint) -> None:
    old = replicated.master
    toril.gateway.register("busy", endpoint.url)
    with Adding(toril, "busy") as adding:
        adding.until_more()
        replicated.fail_over()
        replicated.until_master_is_not(old)
        adding.until_more()
    assert set(adding.refused) <= {503}
    moved(toril, replicated, endpoint, old.port)
    # The wait for jobs moved as well: this one starts by its marker.
    assert toril.gateway.finished("busy", toril.gateway.add_one("busy"))["returnvalue"] == {"done": True}
    # None is left at the server that is a replica now.
    eventually(lambda: connections(replicated, replicated.servers.index(old)) == set())


def test_the_death_of_the_master_is_survived(toril: TorilProcess, replicated: Replicated, endpoint: Endpoint) -> None:
    old = replicated.master
    toril.gateway.register("busy", endpoint.url)
    with Adding(toril, "busy") as adding:
        adding.until_more()
        old.kill()
        replicated.until_master_is_not(old)
        adding.until_more()
    assert set(adding.refused) <= {503}
    moved(toril, replicated, endpoint, old.port)


@pytest.mark.parametrize("replicated", ["Valkey"], indirect=True)
def test_a_master_that_is_cut_off_is_left_and_not_gone_back_to(
    toril: TorilProcess, replicated: Replicated, endpoint: Endpoint
) -> None:
    old = replicated.master
    with Adding(toril, "busy") as adding:
        adding.until_more()
        old.pause()
        replicated.until_master_is_not(old)
        adding.until_more()
        old.resume()
        eventually(lambda: old.client().execute_command("ROLE")[0] == "slave", timeout_s=30)
        adding.until_more()
    assert set(adding.refused) <= {503}
    moved(toril, replicated, endpoint, old.port)
    jobs = replicated.master.client().llen("bull:busy:wait")
    # What was acknowledged before the failover may be missing there, as replication is asynchronous; nothing since.
    assert jobs >= len(adding.acknowledged[-20:])
    eventually(lambda: connections(replicated, replicated.servers.index(old)) == set())


@pytest.mark.promise
@pytest.mark.parametrize("replicated", ["Valkey"], indirect=True)
def test_what_a_replica_confirms_during_a_planned_failover_is_at_the_new_master(
    replicated: Replicated, tmp_path: Path
) -> None:
    # The old master takes writes for as long as a second after the new one was chosen, and has the other replica.
    old = replicated.master
    env = ENVIRONMENT | {"TORIL_ACKNOWLEDGE": "replicas:1"}
    with TorilProcess(replicated.url, tmp_path / "toril.log", env=env) as toril:
        with Adding(toril, "kept") as adding:
            adding.until_more()
            replicated.fail_over()
            new = replicated.until_master_is_not(old)
            adding.until_more()
        assert set(adding.refused) <= {503}
        kept = set(new.client().lrange("bull:kept:wait", 0, -1))
        assert set(adding.acknowledged) - kept == set()


def test_one_sentinel_is_enough_to_find_the_master(replicated: Replicated, tmp_path: Path) -> None:
    for sentinel in replicated.sentinels[:2]:
        sentinel.close()
    with TorilProcess(replicated.url, tmp_path / "toril.log") as toril:
        toril.gateway.add_one("found")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    with Replicated(tmp_path_factory.mktemp("watched"), password="theirs") as made:
        yield made


def of_sentinels(watched: Replicated) -> dict[str, str | None]:
    """The settings without a URL; a password is missing."""
    places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in watched.sentinels)
    return {"REDIS_URL": None, "REDIS_SENTINELS": places, "REDIS_SENTINEL_MASTER": MASTER}


def cause(toril: TorilProcess) -> str:
    answer = toril.client.get("/ready")
    assert answer.status_code == 503
    return answer.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "NOAUTH"),
        ({"REDIS_SENTINEL_PASSWORD": "wrong"}, "WRONGPASS"),
        ({"REDIS_SENTINEL_MASTER": "order", "REDIS_SENTINEL_PASSWORD": "theirs"}, "ERR No such master with that name"),
        ({"REDIS_SENTINELS": "127.0.0.1:1"}, "they cannot be reached"),
    ],
)
def test_what_is_wrong_with_sentinels_is_said_by_ready(
    watched: Replicated, tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    # Ends at once, although it cannot tell Redis.
    env = of_sentinels(watched) | {"TORIL_REDIS_COMMAND_TIMEOUT": "200ms"} | settings
    toril = TorilProcess("", tmp_path / "toril.log", env=env)
    name = settings.get("REDIS_SENTINEL_MASTER", MASTER)
    try:
        toril.start(wait_for="/health")
        eventually(lambda: f"the Sentinels do not say where the master {name} is: {said}" in cause(toril), what=said)
    finally:
        toril.close()


def test_the_password_of_the_sentinels_is_their_own(watched: Replicated, tmp_path: Path) -> None:
    env = of_sentinels(watched) | {"REDIS_SENTINEL_PASSWORD": "theirs"}
    with TorilProcess("", tmp_path / "toril.log", env=env) as toril:
        toril.gateway.add_one("found")


def test_recover_finds_the_master_by_its_sentinels(watched: Replicated, tmp_path: Path) -> None:
    env = of_sentinels(watched) | {"REDIS_SENTINEL_PASSWORD": "theirs"}
    file = configuration(tmp_path / "toril.yaml", {"billing": "http://127.0.0.1:1"}, **ledger_in(tmp_path))
    arguments = ["--config", str(file)]
    with TorilProcess("", tmp_path / "toril.log", env=env, args=arguments) as toril:
        Door(toril.gateway).enqueue("billing", **LATER)
    watched.master.client().flushall()
    assert recovered(arguments, env).startswith("billing: 1 put back into the queue")
