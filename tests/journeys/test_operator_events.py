"""Being told: each fact once over two instances, as a delivery to a target like any other."""

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Call, Endpoint, respond
from tests.support.postgres import PostgresProcess
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

QUICK = {"base": "20ms", "max": "100ms", "jitter": 0}
SOON_S = 30.0
NAMES = ("ops", "refusing", "flapping", "tired", "hook")


class Told:
    """Two instances, and what their events' target was told."""

    def __init__(self, one: TorilProcess, other: TorilProcess, endpoints: dict[str, Endpoint], file: Path) -> None:
        self.one = one
        self.other = other
        self.endpoints = endpoints
        self.file = file
        self.door = Door(one.gateway)

    def calls(self, event: str, **data: Any) -> list[Call]:
        """The calls that told of such events, with repetitions."""
        return [
            call
            for call in self.endpoints["ops"].calls
            if call.json["type"] == event and call.json["data"].items() >= data.items()
        ]

    def once(self, event: str, **data: Any) -> dict[str, Any]:
        """The event, once it was told."""
        eventually(lambda: self.calls(event, **data), timeout_s=SOON_S, what=f"{event} {data}")
        calls = self.calls(event, **data)
        assert len({call.header("webhook-id") for call in calls}) == 1
        found: dict[str, Any] = calls[0].json
        assert set(found) == {"type", "timestamp", "data"}
        return found


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """On a Valkey of their own: another instance would take jobs of their workers, and has no events to tell."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "signing").write_text("whsec_" + base64.b64encode(b"k" * 32).decode())
    endpoints = {name: Endpoint().__enter__() for name in NAMES}
    targets: dict[str, Any] = {
        "told-ops": {
            "url": endpoints["ops"].at("/"),
            "retry": QUICK | {"max_attempts": 10_000},
            "breaker": {"open_for": "300ms"},
            "signing": {"secret_file": str(folder / "signing")},
        },
        "told-refusing": {"url": endpoints["refusing"].at("/")},
        "told-flapping": {
            "url": endpoints["flapping"].at("/"),
            "retry": QUICK,
            "breaker": {"failures": 3, "open_for": "500ms"},
        },
        "told-tired": {"url": endpoints["tired"].at("/"), "retry": QUICK | {"max_attempts": 4}, "breaker": "off"},
    }
    file = configuration(
        folder / "toril.yaml",
        targets,
        ledger={"url": f"sqlite:///{folder}/ledger.sqlite3"},
        events={"target": "told-ops", "stuck_after": "2s"},
    )
    args = ("--config", str(file))
    with (
        ValkeyProcess(folder / "valkey") as valkey,
        TorilProcess(valkey.url, folder / "one.log", args=args) as one,
        TorilProcess(valkey.url, folder / "other.log", args=args) as other,
    ):
        yield Told(one, other, endpoints, file)
        ids: dict[tuple[str, ...], set[str | None]] = {}
        for call in endpoints["ops"].calls:
            names = [str(call.json["data"].get(name)) for name in ("target", "job_id", "queue", "worker")]
            ids.setdefault((call.json["type"], call.json["timestamp"], *names), set()).add(call.header("webhook-id"))
        if (
            len([item for item in request.session.items if item.path == request.path]) > 5
        ):  # not a few that are repeated
            assert len(ids) >= 20
        assert {len(found) for found in ids.values()} == {1}, "one id for each fact"
        assert [*one.complaints(), *other.complaints()] == []
    for endpoint in endpoints.values():
        endpoint.close()


def test_a_dead_letter_is_reported(told: Told) -> None:
    told.endpoints["refusing"].behaviour = lambda _: respond(400, "No")
    jobs = [told.door.enqueue("told-refusing", labels={"tenant": "t1"}) for _ in range(3)]
    for job_id in jobs:
        found = told.once("delivery.dead_lettered", job_id=job_id)
        assert found["data"] == {
            "target": "told-refusing",
            "job_id": job_id,
            "reason": "refused",
            "attempts_made": 1,
            "last_error": "HTTP 400 No",
            "labels": {"tenant": "t1"},
        }


def test_a_breaker_is_reported_once_when_it_opens_and_once_when_it_closes(told: Told) -> None:
    endpoint = told.endpoints["flapping"]
    endpoint.behaviour = lambda _: respond(503)
    for _ in range(8):
        told.door.enqueue("told-flapping")
    opened = told.once("breaker.opened", target="told-flapping")
    assert opened["data"]["failures"] == 3
    # Probes reopen it meanwhile; that is no new fact.
    endpoint.wait_for_calls(len(endpoint.calls) + 4, timeout_s=SOON_S)
    assert told.calls("breaker.closed", target="told-flapping") == []
    endpoint.behaviour = lambda _: respond(200)
    closed = told.once("breaker.closed", target="told-flapping")
    assert closed["data"]["since"] == opened["data"]["since"] == opened["timestamp"]
    told.once("breaker.opened", target="told-flapping")


def test_a_target_that_uses_up_attempts_is_told_at_most_once_a_minute_and_when_it_recovers(told: Told) -> None:
    endpoint = told.endpoints["tired"]
    endpoint.behaviour = lambda _: respond(500)
    jobs = [told.door.enqueue("told-tired") for _ in range(4)]
    found = told.once("target.failing", target="told-tired")
    assert found["data"]["attempts_used_percent"] in {50, 90, 100}
    assert found["data"]["deliveries"] >= 1
    for job_id in jobs:
        assert told.once("delivery.dead_lettered", job_id=job_id)["data"]["reason"] == "attempts"
    assert len({call.header("webhook-id") for call in told.calls("target.failing", target="told-tired")}) == 1
    assert told.calls("target.recovered", target="told-tired") == []
    endpoint.behaviour = lambda _: respond(200)
    # On either instance.
    for _ in range(4):
        told.door.enqueue("told-tired")
    told.once("target.recovered", target="told-tired")


def test_a_registered_worker_is_told_when_it_fails_and_when_it_recovers(told: Told, queue: str) -> None:
    endpoint = told.endpoints["hook"]
    endpoint.behaviour = lambda _: respond(500, "Broken")
    told.one.gateway.register(queue, endpoint.url)
    for _ in range(4):
        told.one.gateway.add_one(queue, attempts=1)
    eventually(lambda: told.one.gateway.counts(queue)["failed"] == 4, timeout_s=SOON_S)
    for _ in range(4):
        told.one.gateway.add_one(queue, attempts=1)
    told.once("worker.failing", worker=queue)
    endpoint.behaviour = lambda _: respond(200)
    for _ in range(6):
        told.one.gateway.add_one(queue)
    told.once("worker.recovered", worker=queue)


def test_a_queue_whose_oldest_job_waits_too_long_is_reported(told: Told, queue: str) -> None:
    told.one.gateway.add_one(queue)
    found = told.once("queue.stuck", queue=queue)
    assert found["data"]["oldest_waiting_s"] > 2
    assert found["data"]["waiting"] == 1


def test_a_refused_configuration_is_reported_with_its_faults(told: Told) -> None:
    good = told.file.read_text()
    parsed = yaml.safe_load(good)
    parsed["targets"]["told-tired"]["concurrency"] = "many"
    told.file.write_text(yaml.safe_dump(parsed))
    try:
        found = told.once("config.kept")
        assert "concurrency" in found["data"]["faults"][0]
        eventually(
            lambda: "config.kept" in told.one.log() and "config.kept" in told.other.log(), what="both to have read it"
        )
        told.once("config.kept")
    finally:
        told.file.write_text(good)


def test_no_event_is_lost_while_the_events_target_is_down_and_none_is_about_it(told: Told) -> None:
    ops = told.endpoints["ops"]
    ops.behaviour = lambda _: respond(503)
    told.endpoints["refusing"].behaviour = lambda _: respond(400)
    jobs = [told.door.enqueue("told-refusing") for _ in range(12)]

    def open_breaker() -> bool:
        state: str = told.one.client.get("/targets/told-ops").json()["breaker"]["state"]
        return state != "closed"

    eventually(open_breaker, timeout_s=SOON_S, what="the breaker of the events' target to open")
    ops.behaviour = lambda _: respond(200)
    for job_id in jobs:
        told.once("delivery.dead_lettered", job_id=job_id)
    assert [call for call in ops.calls if call.json["data"].get("target") == "told-ops"] == []
    assert any("breaker.opened" in log and "told-ops" in log for log in (told.one.log(), told.other.log()))


def test_an_event_is_a_delivery_that_can_be_followed(told: Told) -> None:
    found = told.one.client.get("/jobs", params={"target": "told-ops", "label.event": "delivery.dead_lettered"}).json()
    job = found["jobs"][0]
    (call,) = [one for one in told.endpoints["ops"].calls if one.header("webhook-id") == job["job_id"]][-1:]
    assert call.header("webhook-signature") is not None
    assert call.header("content-type") == "application/json"
    assert json.loads(call.body)["type"] == "delivery.dead_lettered"


class Outage:
    """Two instances that tell of their PostgreSQL alone."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.postgres = stack.enter_context(PostgresProcess())
        self.ops = stack.enter_context(Endpoint())
        valkey = stack.enter_context(ValkeyProcess(folder / "valkey"))
        file = configuration(
            folder / "toril.yaml",
            {"ops": {"url": self.ops.at("/"), "retry": QUICK, "breaker": "off"}},
            ledger={"url": self.postgres.database()},
            events={"target": "ops", "types": ["ledger.*"]},
        )
        self.instances = [
            stack.enter_context(TorilProcess(valkey.url, folder / f"{name}.log", args=("--config", str(file))))
            for name in ("one", "other")
        ]

    def logged(self, what: str) -> None:
        """Wait until both instances have logged it."""
        for toril in self.instances:
            eventually(lambda toril=toril: what in toril.log(), timeout_s=SOON_S, what=what)  # type: ignore[misc]

    def told(self) -> list[tuple[str, str | None]]:
        """Types and ids of the events, each once."""
        return sorted({(call.json["type"], call.header("webhook-id")) for call in self.ops.calls})


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[Outage]:
    with ExitStack() as stack:
        yield Outage(tmp_path, stack)


def test_a_ledger_outage_is_reported_while_it_lasts_and_its_end_once(outage: Outage) -> None:
    outage.postgres.stop(immediately=True)
    outage.ops.wait_for_calls(1, timeout_s=SOON_S)
    outage.logged("ledger.unreachable")
    assert [event for event, _ in outage.told()] == ["ledger.unreachable"], "PostgreSQL is still away"
    outage.postgres.start()
    outage.logged("ledger.back")
    eventually(lambda: len(outage.told()) > 1, timeout_s=SOON_S, what="its end to be told")
    assert [event for event, _ in outage.told()] == ["ledger.back", "ledger.unreachable"]
    assert None not in {name for _, name in outage.told()}, "also where nothing is signed"
    found = outage.instances[0].client.get("/jobs", params={"target": "ops"}).json()["jobs"]
    assert [job["labels"] for job in found] == [{"event": "ledger.back"}], "the other one went past the ledger"


def test_a_ledger_outage_that_could_not_be_reported_is_reported_later_under_the_same_id(outage: Outage) -> None:
    outage.ops.behaviour = lambda _: respond(503)
    outage.postgres.stop(immediately=True)
    outage.ops.wait_for_calls(2, timeout_s=SOON_S)
    outage.logged("ledger.unreachable")
    outage.postgres.start()
    outage.ops.behaviour = lambda _: respond(200)
    outage.logged("ledger.back")
    eventually(lambda: len(outage.told()) > 1, timeout_s=SOON_S, what="its end to be told")
    (unreachable,) = {name for event, name in outage.told() if event == "ledger.unreachable"}

    def delivered() -> bool:
        answer = outage.instances[0].client.get(f"/jobs/{unreachable}")
        return answer.status_code == 200 and answer.json()["status"] == "delivered"

    # The answer of a call may have been 200 while PostgreSQL came back; then it is no delivery.
    eventually(
        lambda: delivered() or "event.told_directly" in outage.instances[0].log() + outage.instances[1].log(),
        timeout_s=SOON_S,
        what="the outage to be told",
    )
