"""`redis: none`: the delivery door over PostgreSQL alone, with no Redis anywhere."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.alone import NO_REDIS, alone
from tests.support.commands import run_toril
from tests.support.deliveries import LATER, Door
from tests.support.endpoint import Answer, Call, Endpoint, respond
from tests.support.postgres import PostgresProcess
from tests.support.sql_enqueue import migrated
from tests.support.toril import StartToril, TorilProcess
from tests.support.waiting import eventually

PATIENCE_S = 60.0
QUICK = {"base": "50ms", "max": "100ms", "jitter": 0}
NOWHERE = "http://127.0.0.1:9/"


@pytest.fixture
def ledger(postgres: PostgresProcess) -> str:
    return postgres.database()


@pytest.fixture
def args(tmp_path: Path, ledger: str, endpoint: Endpoint) -> list[str]:
    targets = {
        "billing": {"url": endpoint.at("/"), "retry": QUICK | {"max_attempts": 3}},
        "parked": {"url": NOWHERE},
    }
    return alone(tmp_path / "toril.yaml", ledger, targets)


@pytest.fixture
def toril(args: list[str], start_toril: StartToril) -> TorilProcess:
    return start_toril(NO_REDIS, args=args)


@pytest.fixture
def door(toril: TorilProcess) -> Door:
    return Door(toril.gateway)


def keys(endpoint: Endpoint) -> Counter[str]:
    """How often each idempotency key reached the endpoint."""
    return Counter(call.header("idempotency-key") for call in endpoint.calls)


def shown(door: Door, target: str = "billing") -> dict[str, Any]:
    found: dict[str, Any] = door.http.get(f"/targets/{target}").json()
    return found


@pytest.fixture
def gate(endpoint: Endpoint) -> Iterator[threading.Event]:
    """The endpoint answers once it is set."""
    opened = threading.Event()

    async def behaviour(_: Call) -> Answer:
        while not opened.is_set():
            await asyncio.sleep(0.01)
        return respond()

    endpoint.behaviour = behaviour
    yield opened
    opened.set()


def test_an_envelope_is_delivered_without_any_redis(door: Door, toril: TorilProcess, endpoint: Endpoint) -> None:
    job_id = door.enqueue("billing", "key-1", body={"order": 7}, path="/invoices", labels={"tenant": "t1"})
    found = door.job(job_id, wait=30)
    assert (found["status"], found["labels"]) == ("delivered", {"tenant": "t1"})
    assert [step["to"] for step in found["transitions"]] == ["queued", "dispatching", "delivered"]
    (call,) = endpoint.calls
    assert (call.method, call.target, call.json) == ("POST", "/invoices", {"order": 7})
    assert (call.header("idempotency-key"), call.header("toril-attempt")) == ("key-1", "1")
    again = door.post(
        {"target": "billing", "body": {"order": 7}, "path": "/invoices", "labels": {"tenant": "t1"}}, "key-1"
    )
    assert (again.status_code, again.json()["job_id"]) == (200, job_id)
    assert '"event": "redis.none"' in toril.log()
    assert '"redis": "none"' in toril.log()
    assert toril.status("/health") == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/queues"), ("POST", "/queues/orders/jobs"), ("GET", "/queues/orders"), ("GET", "/workers"),
        ("POST", "/workers"), ("GET", "/queues/orders/events"),
        ("GET", "/queues/orders/groups"), ("PUT", "/queues/orders/groups/a"),
    ],
)  # fmt: skip
def test_routes_of_other_doors_say_that_there_is_no_redis(door: Door, method: str, path: str) -> None:
    answer = door.http.request(method, path, json={"POST": [], "PUT": {}}.get(method))
    assert (answer.status_code, answer.headers["toril-code"]) == (501, "no_redis"), answer.text
    assert "redis: none" in answer.text
    assert door.http.request(method, path, headers={"authorization": "Bearer wrong"}).status_code == 401


def test_what_needs_no_redis_answers(door: Door, toril: TorilProcess) -> None:
    assert door.http.get("/whoami").json()["doors"] == ["delivery"]
    assert door.http.get("/openapi.json").status_code == 200
    findings = {one["about"]: one["state"] for one in door.http.get("/doctor").json()["findings"]}
    assert findings["redis"] == "ok"
    assert door.http.get("/dashboard", follow_redirects=True).status_code == 200
    assert door.http.post("/reload").status_code == 200
    door.enqueue("parked", **LATER)
    eventually(lambda: 'toril_queue_jobs{queue="deliver-parked",state="delayed"} 1' in metrics(door), timeout_s=30)
    assert "\ntoril_redis_up" not in metrics(door), "no alert for a Redis that is not there"
    assert "toril_ledger_up 1" in metrics(door)
    assert shown(door, "parked")["recent"]["attempts"] == 0
    assert toril.status("/ready") == 200


def test_statistics_and_the_audit_log_are_those_of_the_fleet(
    args: list[str], start_toril: StartToril, endpoint: Endpoint
) -> None:
    first, second = start_toril(NO_REDIS, args=args), start_toril(NO_REDIS, args=args)
    door, other = Door(first.gateway), Door(second.gateway)
    endpoint.behaviour = lambda call: respond(200 if call.target == "/fine" else 410)
    for path in ("/fine", "/fine", "/gone"):
        door.job(other.enqueue("billing", path=path), wait=30)
    assert other.http.post("/targets/parked/pause").status_code == 204
    other.enqueue("parked")

    def line() -> dict[str, Any] | None:
        lines = door.http.get("/audit").json()["lines"]
        return next((one for one in lines if one["action"] == "POST /targets/{target}/pause"), None)

    found = eventually(line, what="the other instance's line")
    assert found is not None
    assert (found["target"], found["status"]) == ("parked", 204)
    second.terminate()  # it writes what it has measured, at once
    first.terminate()
    third = Door(start_toril(NO_REDIS, args=args).gateway)
    stats = third.http.get("/stats").json()
    assert set(stats["doors"]) == {"delivery"}
    delivery = stats["doors"]["delivery"]
    totals = {name: sum(delivery[name]) for name in ("accepted", "finished", "failed", "attempts", "attempts_failed")}
    assert totals == {"accepted": 4, "finished": 2, "failed": 1, "attempts": 3, "attempts_failed": 1}
    assert (delivery["targets"], delivery["backlog"], stats["most_waiting"]) == (2, 1, [])
    assert [(one["where"], one["times"], one["door"]) for one in stats["reasons"]] == [("billing", 1, "delivery")]
    assert [(one["kind"], one["what"], one["name"]) for one in stats["paused"]] == [("paused", "target", "parked")]
    one = third.http.get("/stats", params={"queue": "deliver-billing", "window": "24h"}).json()
    assert (sum(one["finished"]), one["worker"]) == (2, None)
    recent = shown(third)["recent"]
    assert (recent["attempts"], recent["failed"]) == (3, 1)


def test_agents_have_the_tools_of_deliveries_and_are_told_what_there_is_not(door: Door) -> None:
    def mcp(method: str, **params: Any) -> Any:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return door.http.post("/mcp", json=message).json()["result"]

    names = {tool["name"] for tool in mcp("tools/list")["tools"]}
    of_deliveries = {"list_targets", "find_deliveries", "explain_delivery", "send_delivery", "replay_dead_letters"}
    assert names == of_deliveries | {"what_needs_attention"}
    said = mcp("initialize", protocolVersion="2025-11-25")["instructions"]
    assert "Begin with what_needs_attention" in said
    assert "redis: none" in said
    refused = mcp("tools/call", name="list_queues", arguments={})
    assert (refused["isError"], refused["structuredContent"]["code"]) == (True, "no_redis")
    assert "redis: none" in refused["content"][0]["text"]
    sent = mcp("tools/call", name="send_delivery", arguments={"target": "billing", "body": {"order": 1}})
    assert sent["isError"] is False, sent
    job_id = sent["structuredContent"]["job_id"]
    assert door.job(job_id, wait=30)["status"] == "delivered"
    explained = mcp("tools/call", name="explain_delivery", arguments={"job_id": job_id})
    assert explained["isError"] is False, explained
    for name, arguments in (
        ("what_needs_attention", {}),
        ("list_targets", {}),
        ("find_deliveries", {}),
        ("replay_dead_letters", {"target": "billing", "all": True}),
    ):
        answer = mcp("tools/call", name=name, arguments=arguments)
        assert answer["isError"] is False, answer


def metrics(door: Door) -> str:
    return door.http.get("/metrics").text


def test_retries_dead_letters_and_replays(door: Door, endpoint: Endpoint) -> None:
    endpoint.behaviour = lambda _: respond(500)
    job_id = door.enqueue("billing")
    found = door.job(job_id, wait=30)
    assert (found["status"], found["reason"], found["attempts_made"]) == ("dead_lettered", "attempts", 3)
    assert [step["to"] for step in found["transitions"]] == [
        "queued", "dispatching", "retrying", "dispatching", "retrying", "dispatching", "dead_lettered",
    ]  # fmt: skip
    endpoint.behaviour = lambda _: respond()
    answer = door.http.post("/targets/billing/dead-letters/replay", json={"all": True})
    assert answer.json() == {"matched": 1, "replayed": 1, "job_ids": [job_id]}
    assert door.job(job_id, wait=30)["status"] == "delivered"
    assert [call.header("toril-attempt") for call in endpoint.calls] == ["1", "2", "3", "4"]


def test_a_delayed_delivery_comes_in_its_time_and_one_past_its_deadline_never(door: Door, endpoint: Endpoint) -> None:
    soon = door.enqueue("billing", delay_ms=700)
    waits = door.job(soon)
    assert (waits["status"], waits["next_attempt_at"] is not None) == ("queued", True)
    deadline = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    late = door.enqueue("billing", delay_ms=60_000, deadline=deadline)
    assert door.job(soon, wait=30)["status"] == "delivered"
    found = door.job(late, wait=30)
    assert (found["status"], found["reason"]) == ("dead_lettered", "deadline")
    (call,) = endpoint.calls
    assert call.header("toril-job-id") == soon


def test_a_cancelled_delivery_frees_its_slot_also_while_it_runs(
    door: Door, endpoint: Endpoint, gate: threading.Event
) -> None:
    running = door.enqueue("billing")
    endpoint.wait_for_calls(1, timeout_s=PATIENCE_S)
    assert shown(door)["in_flight"] == 1
    assert door.http.delete(f"/jobs/{running}").json()["status"] == "cancelled"
    eventually(lambda: shown(door)["in_flight"] == 0, timeout_s=PATIENCE_S)
    assert [attempt["outcome"] for attempt in door.job(running)["attempts"]] == ["cancelled"]
    assert door.http.delete(f"/jobs/{running}").status_code == 409
    gate.set()
    assert door.job(door.enqueue("billing"), wait=30)["status"] == "delivered"


def test_a_pause_outlives_a_restart_and_resuming_wakes_every_instance(
    args: list[str], toril: TorilProcess, start_toril: StartToril, endpoint: Endpoint
) -> None:
    door = Door(toril.gateway)
    assert door.http.post("/targets/billing/pause").status_code == 204
    job_id = door.enqueue("billing")
    toril.terminate()
    toril.start()
    assert shown(door)["paused"] is True
    assert shown(door)["paused_since"] is not None
    other = start_toril(NO_REDIS, args=args)
    assert door.job(job_id)["status"] == "queued"
    assert endpoint.calls == []
    assert Door(other.gateway).http.post("/targets/billing/resume").status_code == 204
    assert door.job(job_id, wait=30)["status"] == "delivered"


def test_a_hold_that_a_target_asks_for_spends_no_attempts_until_it_is_ended(
    tmp_path: Path, ledger: str, start_toril: StartToril, endpoint: Endpoint
) -> None:
    args = alone(tmp_path / "toril.yaml", ledger, {"billing": {"url": endpoint.at("/")}})
    door = Door(start_toril(NO_REDIS, args=args).gateway)
    endpoint.behaviour = lambda _: respond(429, headers=[("retry-after", "3600")])
    first = door.enqueue("billing")
    eventually(lambda: shown(door)["held_until"] is not None, timeout_s=PATIENCE_S)
    others = [door.enqueue("billing") for _ in range(5)]
    eventually(lambda: door.job(first)["status"] == "retrying", timeout_s=PATIENCE_S)
    endpoint.behaviour = lambda _: respond()
    assert len(endpoint.calls) == 1
    assert door.http.post("/targets/billing/resume").status_code == 204
    assert {door.job(job_id, wait=30)["status"] for job_id in others} == {"delivered"}


def test_a_rate_limit_holds_for_all_instances(
    tmp_path: Path, ledger: str, start_toril: StartToril, endpoint: Endpoint
) -> None:
    targets = {"billing": {"url": endpoint.at("/"), "rate_limit": {"max": 4, "per": "1h"}}}
    args = alone(tmp_path / "toril.yaml", ledger, targets)
    one, _ = start_toril(NO_REDIS, args=args), start_toril(NO_REDIS, args=args)
    door = Door(one.gateway)
    ids = [door.enqueue("billing") for _ in range(10)]
    eventually(lambda: len(door.jobs(status="delivered")) == 4, timeout_s=PATIENCE_S)
    eventually(lambda: shown(door)["depth"]["queued"] == 6, timeout_s=PATIENCE_S)
    assert len(endpoint.calls) == 4
    assert len(ids) == 10


def test_a_breaker_is_shared_by_instances_and_closes_by_itself(
    tmp_path: Path, ledger: str, start_toril: StartToril, endpoint: Endpoint
) -> None:
    breaker = {"failures": 3, "open_for": "500ms", "half_open_probes": 1}
    targets = {"billing": {"url": endpoint.at("/"), "retry": QUICK | {"max_attempts": 100}, "breaker": breaker}}
    args = alone(tmp_path / "toril.yaml", ledger, targets)
    one, other = start_toril(NO_REDIS, args=args), start_toril(NO_REDIS, args=args)
    endpoint.behaviour = lambda _: respond(503)
    door = Door(one.gateway)
    ids = [door.enqueue("billing") for _ in range(20)]
    eventually(lambda: shown(Door(other.gateway))["breaker"]["state"] == "open", timeout_s=PATIENCE_S)
    endpoint.behaviour = lambda _: respond()
    assert {door.job(job_id, wait=60)["status"] for job_id in ids} == {"delivered"}
    assert shown(Door(other.gateway))["breaker"]["state"] == "closed"


def test_two_instances_deliver_each_once(
    args: list[str], toril: TorilProcess, start_toril: StartToril, endpoint: Endpoint
) -> None:
    other = start_toril(NO_REDIS, args=args)
    doors = [Door(toril.gateway), Door(other.gateway)]
    wanted = [f"key-{number}" for number in range(200)]
    for first in range(0, 200, 50):
        batch = [{"target": "billing", "idempotency_key": key} for key in wanted[first : first + 50]]
        assert doors[first // 50 % 2].http.post("/enqueue/batch", json=batch).status_code == 207
    eventually(lambda: len(doors[0].jobs(status="delivered")) == 200, timeout_s=PATIENCE_S)
    assert keys(endpoint) == Counter(wanted)
    by = {door.job(job_id)["transitions"][1]["by"] for door in doors[:1] for job_id in door.jobs()}
    assert len(by) == 2, "both worked"


def test_what_a_killed_process_was_working_on_is_delivered_by_another(
    args: list[str], start_toril: StartToril, endpoint: Endpoint, gate: threading.Event
) -> None:
    env = {"TORIL_LOCK": "2s", "TORIL_STALLED_INTERVAL": "1s"}
    doomed = start_toril(NO_REDIS, args=args, env=env)
    ids = [Door(doomed.gateway).enqueue("billing") for _ in range(5)]
    endpoint.wait_for_calls(5, timeout_s=PATIENCE_S)
    doomed.kill()
    gate.set()
    door = Door(start_toril(NO_REDIS, args=args, env=env).gateway)
    for job_id in ids:
        found = door.job(job_id, wait=60)
        assert found["status"] == "delivered"
        assert [attempt["outcome"] for attempt in found["attempts"]] == ["lost", "answered"]


@pytest.mark.parametrize("immediately", [False, True], ids=["shut down", "crashed"])
def test_a_restart_of_postgresql_loses_nothing(
    tmp_path: Path, start_toril: StartToril, endpoint: Endpoint, immediately: bool
) -> None:
    with PostgresProcess() as postgres:
        targets = {"billing": {"url": endpoint.at("/"), "retry": QUICK}}
        args = alone(tmp_path / "toril.yaml", postgres.database(), targets, delivery={"recover_every": "1h"})
        toril = start_toril(NO_REDIS, args=args)
        door = Door(toril.gateway)
        before = [door.enqueue("billing", delay_ms=2000) for _ in range(20)]
        postgres.stop(immediately=immediately)
        assert door.post({"target": "billing"}).status_code == 503
        eventually(lambda: toril.status("/ready") == 503, timeout_s=PATIENCE_S)
        assert toril.status("/health") == 200
        postgres.start()
        eventually(lambda: toril.status("/ready") == 200, timeout_s=PATIENCE_S)
        after = [door.enqueue("billing") for _ in range(20)]
        assert {door.job(job_id, wait=60)["status"] for job_id in before + after} == {"delivered"}


def test_sql_enqueue_is_delivered(args: list[str], toril: TorilProcess, postgres: PostgresProcess, ledger: str) -> None:
    migrated(Path(args[1]))
    job_id = postgres.psql("SELECT toril.enqueue('billing', body => '{}')", ledger.rpartition("/")[2])
    door = Door(toril.gateway)
    eventually(lambda: door.http.get(f"/jobs/{job_id}").status_code == 200, timeout_s=PATIENCE_S)
    assert door.job(job_id, wait=60)["status"] == "delivered"


def test_recover_puts_back_jobs_that_the_queues_have_lost(
    tmp_path: Path, start_toril: StartToril, postgres: PostgresProcess, ledger: str
) -> None:
    args = alone(tmp_path / "toril.yaml", ledger, {"parked": NOWHERE}, delivery={"recover_every": "1h"})
    toril = start_toril(NO_REDIS, args=args)
    ids = [Door(toril.gateway).enqueue("parked", **LATER) for _ in range(3)]
    toril.terminate()
    database = ledger.rpartition("/")[2]
    postgres.psql("TRUNCATE toril_jobs", database)

    def recover() -> str:
        done = run_toril("recover", *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "parked: 3 put back into the queue" in recover()
    assert postgres.psql("SELECT job_id FROM toril_jobs ORDER BY job_id", database).split() == sorted(ids)
    assert "parked: 0 put back into the queue" in recover()


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({"redis": "none"}, "redis: none needs targets"),
        ({"redis": "none", "targets": {"a": {"url": NOWHERE}}}, "redis: none needs ledger.url with a PostgreSQL"),
        (
            {"redis": "none", "targets": {"a": {"url": NOWHERE}}, "ledger": {"url": "none"}},
            "redis: none needs ledger.url with a PostgreSQL",
        ),
        ({"redis": "nowhere"}, "redis in "),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(tmp_path: Path, document: dict[str, Any], fault: str) -> None:
    file = tmp_path / "toril.yaml"
    file.write_text(yaml.safe_dump(document))
    done = run_toril("check-config", "--config", str(file), env={"REDIS_URL": "redis://127.0.0.1:6379"})
    assert done.returncode != 0
    assert fault in done.stderr
