"""The pytest plugin that toril brings along: in a project of its own, and what it promises a test."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import Family
from tests.support.waiting import eventually
from toril.testing.running_gateway import CallRefused, FreshQueue, RunningGateway

EXAMPLE = Path(__file__).parents[2] / "examples" / "pytest"


def run_pytest(folder: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run pytest in a folder, as its owner would, in the environment that toril is installed in."""
    plugins = {entry.value for entry in importlib.metadata.entry_points(group="pytest11")}
    assert "toril.testing.pytest_plugin" in plugins, (
        "toril was installed before it had a plugin: run `make .venv/.ready`"
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder, env=os.environ | {"PYTEST_ADDOPTS": ""} | env, capture_output=True, text=True, check=False,
        timeout=100,
    )  # fmt: skip


def test_the_example_project_passes_also_beside_a_developers_own_redis(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    done = run_pytest(tmp_path / "shop", REDIS_URL="redis://127.0.0.1:1", AUTH_TOKENS="another", PORT="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_every_session_has_one_gateway_and_every_test_a_queue(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("""
seen = []

def test_one(toril_gateway, toril_queue):
    toril_queue.add("a")
    toril_queue.register(toril_gateway.inspector_url("one"))
    seen.append((toril_gateway, toril_queue.name))

def test_two(toril_gateway, toril_queue):
    (gateway, name), = seen
    assert gateway is toril_gateway
    assert name != toril_queue.name == str(toril_queue)
    assert sum(toril_queue.counts().values()) == 0
    assert gateway.call("GET", "/workers") == {}
    assert name not in str(gateway.call("GET", "/queues"))
""")
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_gateway_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("""
import pytest

@pytest.fixture(scope="session")
def toril_config():
    return "targets: nonsense"

def test_one(toril_gateway):
    pass
""")
    done = run_pytest(tmp_path)
    assert done.returncode == 1
    assert "toril does not start" in done.stdout
    assert "targets" in done.stdout


class TestRunningGateway:
    @pytest.fixture(scope="class")
    @classmethod
    def running(cls, tmp_path_factory: pytest.TempPathFactory) -> "RunningGateway":
        config = 'upstreams: [{prefix: /api, url: "$TORIL_URL/inspect/api"}]'
        with RunningGateway(tmp_path_factory.mktemp("toril"), config) as gateway:
            yield gateway

    @pytest.fixture
    def fresh(self, running: RunningGateway, queue: str) -> FreshQueue:
        return running.queue(queue)

    def test_draining_waits_for_retries_and_tells_what_came_of_all(
        self, running: RunningGateway, fresh: FreshQueue
    ) -> None:
        fresh.register(running.inspector_url("failing") + "?status=503")
        fresh.add("a", attempts=2, backoff=200)
        assert fresh.drain() == {"completed": 0, "failed": 1}
        assert len(running.inspected("failing")) == 2
        fresh.register(running.inspector_url("well"))
        job = fresh.add("b", {"ä": 1}, delay=200)
        assert fresh.drain() == {"completed": 1, "failed": 1}
        assert fresh.job(job)["returnvalue"] == {"inspected": "well", "number": 3}

    def test_a_queue_that_is_not_drained_in_time_names_what_is_left(self, fresh: FreshQueue) -> None:
        fresh.add("a")
        fresh.add("b", delay=60_000)
        with pytest.raises(TimeoutError, match=r"not empty: \{.*'waiting': 1.*\}") as caught:
            fresh.drain(timeout_s=0.1)
        assert "'delayed': 1" in str(caught.value)

    def test_removing_a_queue_takes_its_jobs_and_its_worker(self, running: RunningGateway, fresh: FreshQueue) -> None:
        fresh.register(running.inspector_url("slow") + "?delay=1s")
        fresh.add("a")
        running.wait_for("slow")
        fresh.remove()
        fresh.remove()
        assert sum(fresh.counts().values()) == 0
        assert fresh.name not in running.call("GET", "/workers")

    def test_a_refused_call_raises_with_the_status(self, running: RunningGateway, fresh: FreshQueue) -> None:
        with pytest.raises(CallRefused, match="404") as caught:
            fresh.job("nothing")
        assert caught.value.status == 404

    def test_waiting_for_a_request_in_vain_says_so(self, running: RunningGateway) -> None:
        with pytest.raises(TimeoutError, match="0 of 1 requests have come to nobody"):
            running.wait_for("nobody", timeout_s=0.1)

    def test_a_stopped_gateway_leaves_no_process_behind(self, tmp_path: Path) -> None:
        family = Family()
        with RunningGateway(tmp_path) as gateway:
            family.look(os.getpid())
            assert gateway.call("GET", "/ready")["status"] == "ready"
            mine = [
                pid for pid in family.alive() if str(tmp_path).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
            assert len(mine) == 2, "itself and its store"
        gateway.stop()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in mine), what="both to be gone")
