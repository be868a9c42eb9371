"""A configuration that changes under a running toril: by SIGHUP, by `POST /reload`, and by being noticed."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.tokens import ask, token
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

KEEPER = token("keeper", ["targets:manage"])
BILLING_KEEPER = token("billing-keeper", ["*"], ["billing*"])
READER = token("reader", ["*:read"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "toril.yaml"


def write(file: Path, **document: Any) -> None:
    """Put a configuration into a file, in one step; with the tokens of this module, unless others are given."""
    other = file.with_suffix(".new")
    other.write_text(yaml.safe_dump({"tokens": [KEEPER, BILLING_KEEPER, READER]} | document))
    other.replace(file)


@pytest.fixture
def start(file: Path, valkey: ValkeyProcess, start_toril: StartToril) -> Callable[..., TorilProcess]:
    """Starts a toril with a configuration."""

    def starting(*args: str, **document: Any) -> TorilProcess:
        write(file, **document)
        return start_toril(valkey, args=["--config", str(file), *args])

    return starting


def reload(toril: TorilProcess, secret: str = "keeper-secret") -> Any:
    answer = ask(toril.url, secret, "POST", "/reload")
    assert answer.status_code == 200, answer.text
    return answer.json()


def lines(toril: TorilProcess, event: str) -> list[dict[str, Any]]:
    """The log lines of one event."""
    found = [json.loads(line) for line in toril.log().splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


def test_a_reload_applies_what_it_can_and_names_what_needs_a_rollout(
    start: Callable[..., TorilProcess], file: Path
) -> None:
    toril = start()
    assert reload(toril) == {"config_generation": 1, "applied": [], "pending_rollout": [], "secrets_kept": []}
    write(file, log={"level": "debug"}, engine={"lock": "31s"}, targets={"new": {"url": "http://127.0.0.1:9"}})
    # Whoever was first to see it, the watcher or this call: it is taken over once.
    answer = reload(toril)
    assert (answer["config_generation"], answer["pending_rollout"]) == (2, ["engine.lock", "targets.new"])
    (pending,) = eventually(lambda: lines(toril, "config.pending_rollout"))
    assert (pending["keys"], pending["level"]) == (["engine.lock", "targets.new"], "warning")
    # Debug lines are written from here on, by loggers that were in use before.
    assert ask(toril.url, "keeper-secret", "GET", "/workers").status_code == 403
    toril.gateway.add_one("reload-debug")
    eventually(lambda: [line for line in lines(toril, "audit") if line["level"] == "debug"], what="a debug line")
    write(file, log={"level": "debug"})
    assert reload(toril)["pending_rollout"] == []
    assert [line["applied"] for line in lines(toril, "config.reloaded") if line["applied"]] == [["log.level"]]


def test_a_configuration_with_faults_changes_nothing_and_every_fault_is_told(
    start: Callable[..., TorilProcess], file: Path, tmp_path: Path
) -> None:
    toril = start()
    missing = {"scheme": "bearer", "secret_file": str(tmp_path / "missing")}
    write(
        file, tokens=[READER], port="x", targets={"a": {"url": "http://127.0.0.1:9", "auth": missing}, "b": {"urk": 1}}
    )
    answer = ask(toril.url, "keeper-secret", "POST", "/reload")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "config_invalid"
    faults = "\n".join(problem["faults"])
    assert len(problem["faults"]) == 4
    assert all(part in faults for part in ("port", "a.auth.secret_file", "b: unknown key urk", "b: url is missing"))
    # The keeper's token is still known, and so are all others.
    write(file)
    assert reload(toril)["config_generation"] == 1


@pytest.mark.parametrize(
    ("secret", "status"),
    [("reader-secret", 403), ("billing-keeper-secret", 403), ("nobodys-secret", 401), ("keeper-secret", 200)],
)
def test_a_reload_needs_the_right_to_manage_all_targets(
    start: Callable[..., TorilProcess], secret: str, status: int
) -> None:
    assert ask(start().url, secret, "POST", "/reload").status_code == status


def test_a_reload_request_reaches_every_process(start: Callable[..., TorilProcess], file: Path) -> None:
    toril = start("--processes", "2")
    eventually(lambda: len(lines(toril, "listening")) == 2, timeout_s=30)
    reload(toril)
    # One line of the process that was asked, and one of each for the signal that the parent passes on.
    eventually(lambda: len(lines(toril, "config.reloaded")) == 3, timeout_s=30)
    assert toril.running


def test_sighup_reloads_too(start: Callable[..., TorilProcess], file: Path) -> None:
    toril = start()
    write(file, max_body=1000)
    toril.send(signal.SIGHUP)
    eventually(lambda: lines(toril, "config.reloaded"), timeout_s=30)
    assert reload(toril)["config_generation"] == 2
