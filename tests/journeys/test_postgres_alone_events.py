"""Events to operators over PostgreSQL alone: each fact once over two instances."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.alone import NO_REDIS, alone
from tests.support.deliveries import Door
from tests.support.endpoint import Endpoint, respond
from tests.support.postgres import PostgresProcess
from tests.support.toril import StartToril, TorilProcess
from tests.support.waiting import eventually

QUICK = {"base": "50ms", "max": "100ms", "jitter": 0}
PATIENCE_S = 60.0


class Told:
    """Two instances, and the endpoint that their operators have."""

    def __init__(self, pair: list[TorilProcess], ops: Endpoint) -> None:
        self.pair = pair
        self.door = Door(pair[0].gateway)
        self.ops = ops

    def of(self, kind: str, **data: str) -> list[dict[str, Any]]:
        """The facts of a type with such data, each once however often it was sent."""
        facts = {call.header("webhook-id"): call.json for call in self.ops.calls if call.json["type"] == kind}
        return [fact for fact in facts.values() if data.items() <= fact["data"].items()]

    def once(self, kind: str, **data: str) -> dict[str, Any]:
        """The one such fact, once it is told."""
        eventually(lambda: self.of(kind, **data), timeout_s=PATIENCE_S, what=kind)
        (fact,) = self.of(kind, **data)
        return fact


@pytest.fixture
def ops() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


def test_dead_letters_breakers_failing_targets_and_stuck_queues_are_told_once(
    tmp_path: Path, postgres: PostgresProcess, start_toril: StartToril, endpoint: Endpoint, ops: Endpoint
) -> None:
    breaker = {"failures": 3, "open_for": "300ms"}
    targets = {
        "ops": {"url": ops.at("/"), "retry": QUICK, "breaker": "off"},
        "flapping": {"url": endpoint.at("/"), "retry": QUICK | {"max_attempts": 1000}, "breaker": breaker},
        "tired": {"url": endpoint.at("/tired"), "retry": QUICK | {"max_attempts": 2}, "breaker": "off"},
        "paused": {"url": endpoint.at("/")},
    }
    events = {"target": "ops", "stuck_after": "1s"}
    args = alone(tmp_path / "toril.yaml", postgres.database(), targets, events=events)
    told = Told([start_toril(NO_REDIS, args=args) for _ in range(2)], ops)
    assert told.door.http.post("/targets/paused/pause").status_code == 204
    endpoint.behaviour = lambda _: respond(503)
    stuck = told.door.enqueue("paused")
    job_id = told.door.enqueue("tired")
    for _ in range(5):
        told.door.enqueue("flapping")
    assert told.once("delivery.dead_lettered")["data"]["job_id"] == job_id
    assert told.once("target.failing")["data"]["target"] == "tired"
    opened = told.once("breaker.opened")
    endpoint.behaviour = lambda _: respond()
    assert told.once("breaker.closed")["data"]["since"] == opened["timestamp"]
    assert told.once("queue.stuck", queue="deliver-paused")["data"]["paused"] is True
    assert told.door.job(stuck)["status"] == "queued"
    # An instance learns within ten seconds that a target is failing, and then notes its successes.
    eventually(lambda: told.door.enqueue("tired") and told.of("target.recovered"), timeout_s=PATIENCE_S)
    assert told.once("target.recovered")["data"]["target"] == "tired"
    for kind in ("breaker.opened", "breaker.closed", "delivery.dead_lettered", "target.failing"):
        told.once(kind)


def test_an_outage_of_the_database_and_its_end_are_told_once_each(
    tmp_path: Path, start_toril: StartToril, ops: Endpoint
) -> None:
    with PostgresProcess() as postgres:
        targets = {"ops": {"url": ops.at("/"), "retry": QUICK}}
        events = {"target": "ops", "types": ["ledger.*"]}
        args = alone(tmp_path / "toril.yaml", postgres.database(), targets, events=events)
        env = {"TORIL_LOG_LEVEL": "debug"}
        told = Told([start_toril(NO_REDIS, args=args, env=env) for _ in range(2)], ops)
        postgres.stop(immediately=True)
        for toril in told.pair:
            # What it cannot record now, as the conditions of the fleet are in the same database.
            eventually(lambda toril=toril: "ledger.not_watched" in toril.log(), timeout_s=PATIENCE_S)  # type: ignore[misc]
        postgres.start()
        down, back = told.once("ledger.unreachable"), told.once("ledger.back")
        assert back["data"]["since"] == down["timestamp"] < back["timestamp"]
