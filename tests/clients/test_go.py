"""The Go client, `clients/go`: its own tests against a real toril, and its examples as programs."""

import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.clients.doors import Doors
from tests.clients.toolchains import COMPILING_S, GO_FOLDER, GoTool
from tests.clients.webhooks import SECRET
from tests.support.gateway import TOKEN, job
from tests.support.ports import free_port
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril_client import Client


@pytest.fixture(scope="module")
def examples(go: GoTool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example programs: `add`, `worker`, `events` and `endpoint`."""
    folder = tmp_path_factory.mktemp("go")
    go.run("go", "build", *go.flags, "-o", f"{folder}/", "./examples/...")
    return folder


@contextmanager
def working(
    program: Path, toril: TorilProcess, queue: str, printed: Path, **more: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run an example for the length of a block; what it prints is in `printed`."""
    env = {"TORIL": toril.url, "TOKEN": TOKEN, "QUEUE": queue, **more}
    with printed.open("wb") as output, subprocess.Popen([program], env=env, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.timeout(COMPILING_S)
def test_the_go_client_is_formatted_and_vetted(go: GoTool) -> None:
    assert go.run("gofmt", "-l", ".") == ""
    go.run("go", "vet", *go.flags, "./...")


@pytest.mark.timeout(COMPILING_S)
def test_the_go_clients_own_tests_pass_against_a_real_toril(go: GoTool, toril: TorilProcess, doors: Doors) -> None:
    printed = go.run(
        "go", "test", "-count=1", "-vet=off", "-v", "-parallel=8", *go.flags, ".",
        TORIL=toril.url, **doors.env,
    )  # fmt: skip
    assert "--- PASS: TestTheWholeJourney" in printed
    assert "--- SKIP" not in printed


@pytest.mark.timeout(COMPILING_S)
def test_the_examples_in_the_readme_do_what_the_readme_says(
    examples: Path, toril: TorilProcess, queue: str, tmp_path: Path
) -> None:
    readme = (GO_FOLDER / "README.md").read_text()
    for name in ("add", "worker"):
        code = (GO_FOLDER / "examples" / name / "main.go").read_text()
        shown = next(block for block in readme.split("```go\n")[1:] if f"// examples/{name}/main.go" in block)
        shown = shown.partition("```")[0].partition("\n")[2].strip()
        assert shown in code, f"README.md shows another {name} than examples/{name}"
    with working(examples / "worker", toril, queue, tmp_path / "printed") as process:
        env = {"TORIL": toril.url, "TOKEN": TOKEN, "QUEUE": queue}
        added = subprocess.run([examples / "add"], env=env, check=True, capture_output=True, text=True, timeout=30)
        assert added.stdout.startswith("added ")
        assert added.stdout.endswith("\ncharged 42\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert "charging 42\n" in (tmp_path / "printed").read_text()


@pytest.mark.timeout(COMPILING_S)
def test_the_examples_of_a_web_handler_and_of_events_run(
    examples: Path, toril: TorilProcess, queue: str, tmp_path: Path
) -> None:
    """The handler has a secret: what toril signs is worked on, what a stranger sends is not. The listener sees it."""
    port, printed, heard = free_port(), tmp_path / "printed", tmp_path / "heard"
    more = {"PORT": str(port), "SECRET": SECRET}
    with (
        working(examples / "endpoint", toril, queue, printed, **more) as endpoint,
        working(examples / "events", toril, queue, heard) as events,
        Client(toril.url, TOKEN) as client,
    ):
        eventually(lambda: "ready" in printed.read_text(), timeout_s=30, what="a handler that is ready")
        assert httpx.post(f"http://127.0.0.1:{port}/charge", json={}).status_code == 401
        added = client.add(queue, "charge", {"amount": 7})
        assert client.result(queue, added.id) == {"charged": 7}
        assert client.logs(queue, added.id) == ["charging 7"]
        assert client.get(queue, added.id).progress == 50
        eventually(lambda: f"completed {added.id}\n" in heard.read_text(), timeout_s=30, what="the job's event")
        for process in (endpoint, events):
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


@pytest.mark.timeout(COMPILING_S)
def test_a_server_restart_in_the_middle_of_2000_jobs(
    examples: Path,
    start_valkey: Callable[..., ValkeyProcess],
    start_toril: Callable[..., TorilProcess],
    tmp_path: Path,
) -> None:
    """The worker connects again by itself, every job is worked on and completes once, and SIGTERM ends it with 0."""
    toril = start_toril(start_valkey())
    gateway, printed = toril.gateway, tmp_path / "printed"
    gateway.add("orders", *[job({"amount": number}, attempts=1) for number in range(2000)])
    with working(examples / "worker", toril, "orders", printed) as process:

        def charged() -> Counter[int]:
            lines = printed.read_text().splitlines()
            return Counter(int(line.split()[1]) for line in lines if line.startswith("charging "))

        eventually(lambda: len(charged()) >= 200, timeout_s=30, what="200 charged orders")
        assert toril.terminate().code == 0
        assert len(charged()) < 2000, "it was in the middle"
        toril.start()
        gateway.wait_for_counts("orders", 60, completed=2000, failed=0, active=0, waiting=0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert charged() == dict.fromkeys(range(2000), 1)
    assert "not connected, trying again" in printed.read_text()
