"""A toril whose PostgreSQL refuses: it says why in one line, accepts nothing, sends nothing twice, and comes back."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import run_toril
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Answer, Call, Endpoint, respond
from tests.support.postgres import PostgresProcess
from tests.support.toril import StartToril
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

PATIENCE_S = 30.0
StartEndpoint = Callable[..., Endpoint]


class Role:
    """A database and the role that toril uses it with, whose rights can be taken away."""

    def __init__(self, postgres: PostgresProcess) -> None:
        self.name = f"app_{uuid.uuid4().hex[:8]}"
        postgres.psql(f"CREATE ROLE {self.name} LOGIN")
        postgres.psql(f"CREATE DATABASE {self.name} OWNER {self.name}")
        self.url = f"postgresql://{self.name}@127.0.0.1:{postgres.port}/{self.name}"
        self._postgres = postgres

    def refuse(self) -> None:
        """Take its rights to the tables away, of connections that are open, too."""
        self._postgres.psql(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {self.name}", self.name)

    def mend(self) -> None:
        """Give them back."""
        self._postgres.psql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {self.name}", self.name)


def arguments(folder: Path, ledger: str, target: str = "http://127.0.0.1:9/") -> list[str]:
    """Arguments of a toril with one target, whose attempts are given up for lost after a second."""
    file = configuration(
        folder / "toril.yaml",
        {"billing": {"url": target, "timeout": {"total": "20s"}, "retry": {"base": "50ms", "max": "50ms"}}},
        ledger={"url": ledger},
    )
    return ["--config", str(file)]


def test_attempts_under_way_are_not_sent_again_when_the_ledger_refuses(
    tmp_path: Path,
    valkey: ValkeyProcess,
    postgres: PostgresProcess,
    start_toril: StartToril,
    start_endpoint: StartEndpoint,
) -> None:
    role, endpoint = Role(postgres), start_endpoint()
    gate = endpoint.gate()

    async def answer_later(call: Call) -> Answer:
        await gate.passed()
        return respond(200)

    endpoint.behaviour = answer_later
    toril = start_toril(
        valkey,
        args=arguments(tmp_path, role.url, endpoint.at("/")),
        env={"QUEUE_PREFIX": f"test-{role.name}"},
    )
    door = Door(toril.gateway)
    job_id = door.enqueue("billing")
    endpoint.wait_for_calls(1)
    role.refuse()
    gate.open()
    eventually(lambda: '"ledger.unavailable"' in toril.log(), timeout_s=PATIENCE_S)
    answer = door.post({"target": "billing"}, "k")
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    reason = "the ledger cannot be used: PostgreSQL refuses for want of rights"
    eventually(lambda: toril.client.get("/ready").json().get("reasons") == [reason], timeout_s=PATIENCE_S)
    role.mend()
    assert eventually(lambda: door.job(job_id, wait=5)["status"] == "delivered", timeout_s=PATIENCE_S)
    assert [attempt["outcome"] for attempt in door.job(job_id)["attempts"]] == ["answered"]
    assert len(endpoint.calls) == 1
    assert door.post({"target": "billing"}, "k").status_code == 202


def test_a_delivery_that_waited_for_the_ledger_is_not_sent_to_a_target_that_was_paused_meanwhile(
    tmp_path: Path,
    valkey: ValkeyProcess,
    postgres: PostgresProcess,
    start_toril: StartToril,
    start_endpoint: StartEndpoint,
) -> None:
    role, endpoint = Role(postgres), start_endpoint()
    toril = start_toril(
        valkey,
        args=arguments(tmp_path, role.url, endpoint.at("/")),
        env={"QUEUE_PREFIX": f"test-{role.name}"},
    )
    door = Door(toril.gateway)
    job_id = door.enqueue("billing", delay_ms=500)
    role.refuse()
    eventually(lambda: "the job is held" in toril.log(), timeout_s=PATIENCE_S)
    held_at = time.monotonic()
    eventually(lambda: time.monotonic() - held_at > 1.0, what="a second")
    assert door.http.post("/targets/billing/pause").status_code == 204
    role.mend()
    put_back = eventually(lambda: door.job(job_id)["transitions"][2:], timeout_s=PATIENCE_S)
    assert [(step["to"], step["reason"]) for step in put_back] == [("queued", "its target is paused")]
    assert endpoint.calls == []
    assert door.http.post("/targets/billing/resume").status_code == 204
    assert eventually(lambda: door.job(job_id, wait=5)["status"] == "delivered", timeout_s=PATIENCE_S)
    assert len(endpoint.calls) == 1


def test_a_database_that_is_not_there_at_the_start_is_named_and_waited_for(
    tmp_path: Path, valkey: ValkeyProcess, postgres: PostgresProcess, start_toril: StartToril
) -> None:
    name = f"late_{uuid.uuid4().hex[:8]}"
    # A separate ledger on the shared Valkey needs its own queues.
    env = {"QUEUE_PREFIX": f"test-{name}"}
    toril = start_toril(valkey, "/health", args=arguments(tmp_path, postgres.url(name)), env=env)
    eventually(lambda: '"ledger.unavailable"' in toril.log(), timeout_s=PATIENCE_S)
    (line,) = [line for line in toril.log().splitlines() if '"ledger.unavailable"' in line]
    reasons = ["the ledger cannot be used: its database does not exist"]
    eventually(lambda: toril.reasons() == reasons, timeout_s=PATIENCE_S)
    assert f'database \\"{name}\\" does not exist' in line
    assert Door(toril.gateway).post({"target": "billing"}).status_code == 503
    postgres.psql(f"CREATE DATABASE {name}")
    eventually(lambda: toril.status("/ready") == 200, timeout_s=PATIENCE_S)
    assert "janitor.failed" not in toril.log()


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("REVOKE INSERT ON toril_attempts FROM {role}", "PostgreSQL refuses for want of rights"),
        ("REVOKE UPDATE ON toril_deliveries FROM {role}", "PostgreSQL refuses for want of rights"),
        ("ALTER TABLE toril_labels RENAME TO elsewhere", "its tables are not there"),
        ("ALTER TABLE toril_deliveries RENAME lease_until TO elsewhere", "its tables are not those of this toril"),
    ],
)
def test_ready_says_what_is_missing_of_any_table(
    tmp_path: Path, valkey: ValkeyProcess, postgres: PostgresProcess, start_toril: StartToril, missing: str, reason: str
) -> None:
    role = Role(postgres)
    toril = start_toril(valkey, args=arguments(tmp_path, role.url), env={"QUEUE_PREFIX": f"test-{role.name}"})
    postgres.psql(missing.format(role=role.name), role.name)
    reasons = [f"the ledger cannot be used: {reason}"]
    eventually(lambda: toril.client.get("/ready").json().get("reasons") == reasons, timeout_s=PATIENCE_S)


@pytest.mark.parametrize("command", ["serve", "recover"])
def test_an_unusable_ledger_url_is_reported_in_one_line(
    tmp_path: Path, valkey: ValkeyProcess, postgres: PostgresProcess, command: str
) -> None:
    given = arguments(tmp_path, f"{postgres.url('postgres')}?sslmode=nonsense")
    more = ["--host", "127.0.0.1", "--port", "0"] if command == "serve" else []
    done = run_toril(command, *more, *given, env={"REDIS_URL": valkey.url, "AUTH_TOKENS": "x"})
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("toril: The ledger's URL cannot be used: `sslmode` parameter must be one of")
