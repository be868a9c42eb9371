"""``python -m toril``: dev, demo, check-config, and what a wrong command line or environment gets."""

import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support.commands import Ran, run_toril
from tests.support.endpoint import StartEndpoint, reply_json
from tests.support.gateway import Gateway
from tests.support.ports import free_port
from tests.support.processes import Family
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually

BARE = {"PATH": "/usr/bin:/bin", "HOME": "/tmp"}


def run(*arguments: str, env: dict[str, str] | None = None, timeout_s: float = 60) -> Ran:
    """Run a command to its end."""
    return run_toril(*arguments, env=BARE | (env or {}), timeout_s=timeout_s)


class Dev:
    """A running ``toril dev`` and a caller with the token that it printed."""

    def __init__(self, process: TorilProcess) -> None:
        self.process = process
        found = re.search(r"token\s+(\S{16,})", process.log())
        assert found, process.log()
        self.token = found.group(1)
        self.gateway = Gateway(process.url, self.token)


@pytest.fixture
def start_dev(tmp_path: Path) -> Iterator[Callable[[], Dev]]:
    """Starts ``toril dev``, each time on the same data folder."""
    with ExitStack() as stack:

        def start() -> Dev:
            # The environment of a developer who has another Redis and another token lying around.
            env = {"REDIS_URL": None, "AUTH_TOKENS": None}
            command = ("dev", "--data", str(tmp_path / "data"))
            log_path = tmp_path / f"dev-{len(list(tmp_path.iterdir()))}.log"
            process = stack.enter_context(TorilProcess("", log_path, env=env, command=command))
            dev = Dev(process)
            stack.callback(dev.gateway.close)
            return dev

        yield start


class TestDev:
    """``toril dev``: an embedded Valkey whose data survives restarts."""

    def test_dev_prints_a_token_and_lines_to_paste(self, start_dev: Callable[[], Dev]) -> None:
        dev = start_dev()
        assert dev.process.url in dev.process.log()
        assert "curl" in dev.process.log()
        assert httpx.get(dev.process.url + "/workers").status_code == 401
        assert dev.gateway.http.get("/workers").status_code == 200

    def test_dev_prints_the_link_that_logs_in_at_the_dashboard(self, start_dev: Callable[[], Dev]) -> None:
        dev = start_dev()
        link = f"{dev.process.url}/dashboard/#token={dev.token}"
        assert link in dev.process.log().split()
        assert httpx.get(link.partition("#")[0]).status_code == 200

    @pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
    def test_the_lines_that_dev_prints_can_be_pasted(self, start_dev: Callable[[], Dev]) -> None:
        dev = start_dev()
        block = re.search(r"^ *TORIL=.*?(?=^Ctrl-C)", dev.process.log(), re.MULTILINE | re.DOTALL)
        assert block, dev.process.log()
        pasted = subprocess.run(["sh", "-ec", block.group(0)], check=False, capture_output=True, text=True, timeout=20)
        assert pasted.returncode == 0, pasted.stderr
        assert sum(dev.gateway.counts("orders").values()) == 2, pasted.stdout
        assert "orders" in dev.gateway.http.get("/workers").json()

    def test_data_workers_and_token_survive_a_restart(
        self, start_dev: Callable[[], Dev], start_endpoint: StartEndpoint
    ) -> None:
        endpoint = start_endpoint()
        first = start_dev()
        first.gateway.register("kept", endpoint.url)
        done = first.gateway.finished("kept", first.gateway.add_one("kept"))
        waiting = first.gateway.add_one("later", {"n": 1}, delay=60_000)
        assert first.process.terminate().code == 0
        second = start_dev()
        assert second.token == first.token
        assert second.gateway.job("kept", done["id"]) == done
        assert second.gateway.job("later", waiting)["data"] == {"n": 1}
        second.gateway.finished("kept", second.gateway.add_one("kept"))

    @pytest.mark.parametrize("how", ["terminate", "interrupt"])
    def test_dev_finishes_jobs_in_flight_before_it_ends(
        self, start_dev: Callable[[], Dev], start_endpoint: StartEndpoint, how: str
    ) -> None:
        endpoint = start_endpoint(lambda _: reply_json("finished").after(1))
        dev = start_dev()
        dev.gateway.register("slow", endpoint.url, timeout=20_000)
        job_id = dev.gateway.add_one("slow")
        endpoint.wait_for_calls(1)
        ended = getattr(dev.process, how)()
        assert ended.code == 0
        again = start_dev()
        assert again.gateway.job("slow", job_id).get("returnvalue") == "finished"
        assert len(endpoint.calls) == 1

    def test_a_killed_dev_leaves_no_second_valkey_on_the_same_data(self, start_dev: Callable[[], Dev]) -> None:
        first = start_dev()
        job_id = first.gateway.add_one("kept", {"n": 1})
        first.process.send(signal.SIGKILL)
        first.process.wait()
        second = start_dev()
        assert second.gateway.job("kept", job_id)["data"] == {"n": 1}
        eventually(lambda: first.process.survivors() == [], what="the first Valkey to be gone")
        assert second.gateway.add_one("kept") != job_id

    def test_dev_listens_where_the_environment_says(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            done = run("dev", "--data", str(tmp_path / "data"), env={"PORT": str(port)})
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in done.stderr

    def test_a_host_that_cannot_be_resolved_is_named(self, tmp_path: Path) -> None:
        done = run("dev", "--data", str(tmp_path / "data"), "--host", "no-such-host.invalid")
        assert done.returncode == 1
        assert "cannot listen on no-such-host.invalid:8080: the host name cannot be resolved" in done.stderr
        assert "Unknown error" not in done.stderr

    def test_no_valkey_stays_behind(self, start_dev: Callable[[], Dev]) -> None:
        dev = start_dev()
        assert dev.process.terminate().code == 0
        assert dev.process.survivors() == []


class TestDemo:
    """``toril demo``: the whole journey, told while it happens."""

    def test_the_demo_loses_no_job_and_prints_its_rate(self, tmp_path: Path) -> None:
        done = run("demo", "--jobs", "400", env={"TMPDIR": str(tmp_path)})
        assert done.returncode == 0, done.stdout + done.stderr
        for word in ("400", "p50", "p99", "jobs/s"):
            assert word in done.stdout
        assert list(tmp_path.iterdir()) == [], "it cleans up after itself"

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_demo_can_be_interrupted(self, tmp_path: Path, number: signal.Signals) -> None:
        family = Family()
        process = subprocess.Popen(
            [sys.executable, "-m", "toril", "demo", "--jobs", "1000000"],
            env=BARE | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A test run in the background of a shell would hand on that SIGINT is to be ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
        try:
            assert process.stdout
            first = process.stdout.readline()
            family.look(process.pid)
            process.send_signal(number)
            rest, _ = process.communicate(timeout=20)
            assert process.returncode != 0, "an unfinished demo is no success"
            assert "Traceback" not in first + rest
            eventually(lambda: family.alive() == [], what="its Valkey to be gone")
            assert list(tmp_path.iterdir()) == [], "it cleans up after itself"
        finally:
            process.kill()
            process.wait(5)
            family.send(signal.SIGKILL)


class TestKeptDemo:
    """``toril demo --keep``: a gateway with a shop's traffic, until it is told to stop."""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_kept_demo_shows_work_at_every_interface_until_stopped(
        self, tmp_path: Path, number: signal.Signals
    ) -> None:
        family = Family()
        process = subprocess.Popen(
            [sys.executable, "-m", "toril", "demo", "--keep"],
            env=BARE | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
        try:
            assert process.stdout
            said = ""
            while "Ctrl-C" not in said:
                line = process.stdout.readline()
                assert line, f"it ended: {said}"
                said += line
            family.look(process.pid)
            found = re.search(r"(http://\S+)/dashboard/#token=(\S+)", said)
            assert found, said
            gateway = Gateway(found.group(1), found.group(2))
            self._shows_all_doors(gateway)
            gateway.close()
            process.send_signal(number)
            rest, _ = process.communicate(timeout=30)
            assert process.returncode == 0
            assert "Traceback" not in said + rest
            eventually(lambda: family.alive() == [], what="its Valkey to be gone")
            assert list(tmp_path.iterdir()) == [], "it cleans up after itself"
        finally:
            process.kill()
            process.wait(5)
            family.send(signal.SIGKILL)

    def _shows_all_doors(self, gateway: Gateway) -> None:
        """Wait until there is something of every kind, and until more comes."""
        eventually(lambda: gateway.counts("mails")["completed"] > 20, what="mails to be sent")
        eventually(lambda: gateway.counts("stock-sync")["failed"] > 0, what="jobs of a failing worker")
        assert gateway.counts("reminders")["delayed"] > 0
        assert gateway.http.get("/queues/reports").json()["paused"]
        assert gateway.http.get("/queues/mails/schedulers").json()["count"] == 1

        def targets() -> dict[str, dict[str, Any]]:
            return {one["name"]: one for one in gateway.http.get("/targets").json()["targets"]}

        eventually(lambda: targets()["billing"]["breaker"]["state"] == "open", what="an open breaker")
        eventually(lambda: targets()["partners"]["dead_letters"] > 0, what="dead letters")
        assert targets()["analytics"]["paused"]
        proxied = next(name for name in queue_names(gateway) if "shop" in name)
        eventually(lambda: gateway.counts(quote(proxied, safe=""))["completed"] > 0, what="a proxied request")
        before = sum(gateway.counts("orders").values())
        eventually(lambda: sum(gateway.counts("orders").values()) > before, what="more orders")


def queue_names(gateway: Gateway) -> list[str]:
    """The names of the queues of a toril."""
    return [queue["name"] for queue in gateway.http.get("/queues").json()["queues"]]


class TestCheckConfig:
    """``toril check-config``: every fault at once."""

    def test_an_empty_configuration_is_valid_and_warns_that_there_are_no_tokens(self) -> None:
        done = run("check-config")
        assert done.returncode == 0
        assert "AUTH_TOKENS" in done.stdout + done.stderr

    def test_every_fault_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "toril.yaml"
        path.write_text('nonsense: 1\nport: "abc"\ntypo_here: [1]\n')
        done = run("check-config", "--config", str(path), env={"TORIL_GRACE": "soon"})
        assert done.returncode not in {0, 2}
        for name in ("nonsense", "port", "typo_here", "TORIL_GRACE"):
            assert name in done.stdout + done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("text", ["{", "- a\n- b\n", "port: [", "\x00"])
    def test_a_broken_file_is_a_fault(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "toril.yaml"
        path.write_text(text)
        done = run("check-config", "--config", str(path))
        assert done.returncode not in {0, 2}
        assert "toril.yaml" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr

    def test_a_missing_file_is_a_fault(self, tmp_path: Path) -> None:
        done = run("check-config", "--config", str(tmp_path / "nowhere.yaml"))
        assert done.returncode not in {0, 2}
        assert "nowhere.yaml" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr

    def test_serve_refuses_a_file_with_faults(self, tmp_path: Path) -> None:
        path = tmp_path / "toril.yaml"
        path.write_text("nonsense: 1\n")
        done = run("serve", "--port", str(free_port()), "--config", str(path))
        assert done.returncode != 0
        assert "nonsense" in done.stdout + done.stderr


class TestCommandLine:
    """Help, wrong words, and an environment that makes no sense."""

    @pytest.mark.parametrize(
        "arguments",
        [["--help"], ["serve", "--help"], ["dev", "--help"], ["check-config", "--help"], ["demo", "--help"]],
    )
    def test_help_is_there(self, arguments: list[str]) -> None:
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout.lower()

    def test_an_unknown_command_is_refused(self) -> None:
        done = run("fly")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("TORIL_GRACE", "soon"),
            ("TORIL_LOCK", "30 parsecs"),
            ("REDIS_URL", "http://127.0.0.1"),
            ("MIN_QUEUE_NAME_LENGTH", "three"),
            ("TORIL_MAX_BODY_BYTES", "-1"),
        ],
    )
    def test_a_setting_that_makes_no_sense_is_named_and_ends_the_start(self, variable: str, value: str) -> None:
        done = run("serve", "--port", str(free_port()), env={"AUTH_TOKENS": "test-token", variable: value})
        assert done.returncode not in {0, -9}
        assert variable in done.stderr + done.stdout
        assert "Traceback" not in done.stderr
