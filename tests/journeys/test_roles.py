"""`toril serve --role`: gateways accept and answer, workers work, and together they are what one process is."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint, respond
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

PATIENCE_S = 60.0
StartRole = Callable[..., TorilProcess]


@pytest.fixture
def own_valkey(start_valkey: Callable[..., ValkeyProcess]) -> ValkeyProcess:
    return start_valkey()


@pytest.fixture
def endpoints() -> Iterator[dict[str, Endpoint]]:
    names = ("billing", "email")
    started = {name: Endpoint().__enter__() for name in names}
    yield started
    for endpoint in started.values():
        endpoint.close()


@pytest.fixture
def start(
    tmp_path: Path, own_valkey: ValkeyProcess, start_toril: StartToril, endpoints: dict[str, Endpoint]
) -> StartRole:
    """Starts a toril in a role, on one Valkey, with one ledger and two targets."""
    targets = {name: {"url": endpoint.at("/")} for name, endpoint in endpoints.items()}
    file = configuration(tmp_path / "toril.yaml", targets, ledger={"url": "none"})

    def starting(*arguments: str, wait_for: str = "/ready") -> TorilProcess:
        return start_toril(own_valkey, wait_for, args=["--config", str(file), *arguments])

    return starting


def ended(door: Door, job_id: str) -> bool:
    return bool(door.job(job_id)["status"] == "delivered")


def test_a_gateway_accepts_and_a_worker_delivers(start: StartRole, endpoints: dict[str, Endpoint]) -> None:
    gateway = start("--role", "gateway")
    door = Door(gateway.gateway)
    jobs = {name: door.enqueue(name) for name in endpoints}
    # Nothing of it moves: not by its consumers, not by its recoverer.
    assert door.job(jobs["billing"], wait=2, after=1)["status"] == "queued"
    worker = start("--role", "worker")
    eventually(lambda: all(ended(door, job_id) for job_id in jobs.values()), timeout_s=PATIENCE_S)
    assert [len(endpoint.calls) for endpoint in endpoints.values()] == [1, 1]
    assert [worker.status(path) for path in ("/health", "/ready")] == [200, 200]
    for method, path in (
        ("POST", "/enqueue"),
        ("GET", f"/jobs/{jobs['email']}"),
        ("GET", "/targets"),
        ("GET", "/workers"),
    ):
        assert worker.client.request(method, path, json={"target": "billing"}).status_code == 404, path
    assert [toril.terminate(60).code for toril in (worker, gateway)] == [0, 0]


def test_a_worker_for_some_targets_only_delivers_to_these(
    start: StartRole, endpoints: dict[str, Endpoint], endpoint: Endpoint
) -> None:
    gateway = start("--role", "gateway")
    door, queues = Door(gateway.gateway), gateway.gateway
    queues.register("orders", endpoint.url)
    jobs = {name: door.enqueue(name) for name in endpoints}
    pushed = queues.add_one("orders")
    start("--role", "worker", "--targets", "email")
    eventually(lambda: ended(door, jobs["email"]), timeout_s=PATIENCE_S)
    assert door.job(jobs["billing"], wait=1, after=1)["status"] == "queued"
    assert queues.counts("orders")["waiting"] == 1
    # One that delivers to no target works for registered workers.
    start("--role", "worker", "--targets", "")
    queues.finished("orders", pushed)
    assert door.job(jobs["billing"])["status"] == "queued"
    start("--role", "worker", "--targets", "billing")
    eventually(lambda: ended(door, jobs["billing"]), timeout_s=PATIENCE_S)
    assert [len(one.calls) for one in (*endpoints.values(), endpoint)] == [1, 1, 1]


def test_sigterm_lets_a_worker_finish_its_attempt(start: StartRole, endpoints: dict[str, Endpoint]) -> None:
    endpoint = endpoints["billing"]
    endpoint.behaviour = lambda _: respond(200).after(2.0)
    gateway, worker = start("--role", "gateway"), start("--role", "worker")
    door = Door(gateway.gateway)
    job_id = door.enqueue("billing")
    endpoint.wait_for_calls(1, timeout_s=PATIENCE_S)
    assert worker.terminate(60).code == 0
    found = door.job(job_id)
    assert (found["status"], found["attempts_made"]) == ("delivered", 1)
    assert len(endpoint.calls) == 1


def test_ready_says_whether_work_moves_in_each_role(start: StartRole, own_valkey: ValkeyProcess) -> None:
    torils = [start("--role", role) for role in ("all", "gateway", "worker")]
    own_valkey.stop()
    for toril in torils:
        eventually(lambda toril=toril: toril.status("/ready") == 503, timeout_s=PATIENCE_S)  # type: ignore[misc]
        assert toril.status("/health") == 200
    own_valkey.start()
    for toril in torils:
        eventually(lambda toril=toril: toril.status("/ready") == 200, timeout_s=PATIENCE_S)  # type: ignore[misc]
