"""A toril that is forked from the starter does what a whole Python does."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import BARE, run_toril
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess


def told(toril: TorilProcess) -> list[str]:
    return [json.loads(line)["event"] for line in toril.log().splitlines()]


def test_it_listens_logs_and_ends_as_a_whole_python_does(valkey: ValkeyProcess, tmp_path: Path) -> None:
    (tmp_path / "toril.yaml").write_text("queue_prefix: own\n")
    both = [
        TorilProcess(
            valkey.url, tmp_path / f"{preloaded}.log", args=["--config", "toril.yaml"], env={"TZ": "Asia/Tokyo"},
            preloaded=preloaded,
        )
        for preloaded in (True, False)
    ]  # fmt: skip
    documents = []
    for toril in both:
        with toril:
            documents.append(toril.client.get("/openapi.json").json() | {"servers": []})
            assert toril.terminate().code == 0
    assert documents[0] == documents[1]
    assert "listening" in told(both[0])
    assert told(both[0]) == told(both[1])


@pytest.mark.parametrize("preloaded", [True, False])
def test_it_tells_how_it_ended(preloaded: bool, valkey: ValkeyProcess, tmp_path: Path) -> None:
    with TorilProcess(valkey.url, tmp_path / "toril.log", preloaded=preloaded) as toril:
        assert toril.running
        toril.send(signal.SIGKILL)
        assert toril.wait().code == -signal.SIGKILL
        assert not toril.running
    wrong = TorilProcess(valkey.url, tmp_path / "wrong.log", args=["--no-such-option"], preloaded=preloaded)
    with pytest.raises(AssertionError, match="toril ended at start with 2") as caught:
        wrong.start()
    assert "No such option" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--version",), 0),
        (("jobs", "ls", "--help"), 0),
        (("check-config", "--config", "toril.yaml"), 1),
        (("jobs", "add", "orders", "-"), 3),
        (("no-such-command",), 2),
    ],
)
def test_a_command_does_as_a_whole_python_does(tmp_path: Path, arguments: tuple[str, ...], status: int) -> None:
    (tmp_path / "toril.yaml").write_text("queue_prefixes: own\n")
    environment = {**BARE, "TORIL_URL": "http://127.0.0.1:9", "TORIL_TOKEN": "x", "REDIS_URL": "redis://127.0.0.1:9"}
    given = '{"ä": 1}'
    forked = run_toril(*arguments, env=environment, cwd=tmp_path, given=given)
    whole = subprocess.run(
        [sys.executable, "-m", "toril", *arguments],
        env=environment, cwd=tmp_path, input=given, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (forked.returncode, forked.stdout, forked.stderr) == (status, whole.stdout, whole.stderr)
    assert whole.returncode == status


def test_a_command_that_does_not_end_is_stopped(tmp_path: Path, valkey: ValkeyProcess) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_toril("serve", "--port", "0", env={"REDIS_URL": valkey.url, "AUTH_TOKENS": "x"}, cwd=tmp_path, timeout_s=1)
