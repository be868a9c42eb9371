"""The TypeScript client against a real toril on a real Valkey: its own tests under Node and Bun, and its examples."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.clients.doors import Doors
from tests.clients.toolchains import INSTALLING_S, PACKAGE, run
from tests.clients.webhooks import SECRET
from tests.support.gateway import TOKEN
from tests.support.ports import free_port
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril_client import Client, NewJob

FRAMEWORKS = [f"frameworks/{name}" for name in ("express", "hono", "next", "lambda", "fetch")]
NATIVE_SOCKETS = "--experimental-websocket"


@pytest.fixture
def env(toril: TorilProcess, doors: Doors, queue: str) -> dict[str, str]:
    """What tests and examples are told: where toril is, who they are, and a queue of their own."""
    return doors.env | {"TORIL": toril.url, "TOKEN": TOKEN, "QUEUE": queue, "NODE_NO_WARNINGS": "1"}


class Example:
    """A running example, whose lines are collected as they come."""

    def __init__(self, name: str, env: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            ["node", str(PACKAGE / f"build/examples/{name}.js")],
            env=os.environ | dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def end(self) -> int:
        """SIGTERM; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)

    def wait_for(self, line: str) -> None:
        """Wait until it has printed a line."""
        eventually(lambda: line in self.lines, what=f"{line!r} among {self.lines[-20:]}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in self._process.stdout)


@pytest.fixture
def start(package: Path) -> Iterator[Callable[[str, Mapping[str, str]], Example]]:
    """Starts examples."""
    with ExitStack() as stack:
        yield lambda name, env: stack.enter_context(Example(name, env))


def compiled_tests(*names: str) -> list[str]:
    found = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.glob("build/test/*.test.js"))
    assert found
    return [path for path in found if not names or Path(path).name.removesuffix(".test.js") in names]


@pytest.mark.node
def test_the_typescript_clients_own_tests_pass_in_node(package: Path, env: dict[str, str]) -> None:
    printed = run("node", "--test", "--test-timeout=40000", *compiled_tests(), env=env)
    assert "# skipped 0" in printed
    assert "# fail 0" in printed


@pytest.mark.node
def test_the_typescript_clients_socket_tests_pass_with_the_built_in_websocket(
    package: Path, env: dict[str, str]
) -> None:
    """As in Node from 22 on, and in browsers: without the package `ws`, and blind to why a handshake failed."""
    options = {**env, "NODE_OPTIONS": NATIVE_SOCKETS}
    assert run("node", "--print", "typeof WebSocket", env=options).strip() == "function"
    assert "# fail 0" in run(
        "node", "--test", "--test-timeout=40000", *compiled_tests("worker", "journey"), env=options
    )


@pytest.mark.node
def test_the_typescript_clients_own_tests_pass_in_bun(package: Path, env: dict[str, str]) -> None:
    printed = run(
        "node_modules/.bin/bun", "test", "--timeout=40000", *(f"./{path}" for path in compiled_tests()), env=env
    )
    assert " 0 fail" in printed


@pytest.mark.node
@pytest.mark.timeout(INSTALLING_S)
def test_the_typescript_client_works_in_a_browser(package: Path, env: dict[str, str], chromium: str) -> None:
    """Behind one origin everything does; from another one, without CORS, only what goes over a WebSocket."""
    found = json.loads(run("node", "build/test/browser.js", chromium, env=env, timeout_s=60))
    assert found["results"] == [number * 2 for number in range(50)]
    assert {found["events"][name] for name in ("added", "progress", "completed")} == {50}
    assert found["refused"] == "unauthorized"
    assert found["elsewhereWorker"] == 42


@pytest.mark.node
def test_a_server_restart_in_the_middle_of_5000_jobs(
    package: Path,
    start_valkey: Callable[..., ValkeyProcess],
    start_toril: Callable[..., TorilProcess],
    start: Callable[[str, Mapping[str, str]], Example],
) -> None:
    """Workers connect again by themselves, every job completes exactly once, and SIGTERM ends them in good order."""
    toril = start_toril(start_valkey())
    workers = [start("worker", {"TORIL": toril.url, "TOKEN": TOKEN, "QUEUE": "orders"}) for _ in range(2)]

    def charged() -> Counter[str]:
        return Counter(line for worker in workers for line in worker.lines if line.startswith("charging "))

    with Client(toril.url, TOKEN) as client:
        jobs = client.add_bulk("orders", [NewJob("charge", {"amount": number}) for number in range(5000)])
        eventually(lambda: len(charged()) >= 500, timeout_s=30)
        assert toril.terminate().code == 0
        assert len(charged()) < 5000, "it was in the middle"
        toril.start()
        eventually(lambda: client.counts("orders")["completed"] == 5000, timeout_s=60)
        assert [client.result("orders", jobs[n].id) for n in (0, 4999)] == [{"charged": 0}, {"charged": 4999}]
        assert [worker.end() for worker in workers] == [0, 0]
    assert charged() == {f"charging {number}": 1 for number in range(5000)}
    assert any("broke" in line for line in workers[0].lines), "it told of the restart"


@pytest.mark.node
def test_the_examples_run(
    env: dict[str, str], start: Callable[[str, Mapping[str, str]], Example], package: Path
) -> None:
    worker = start("worker", env)
    events = start("events", env)
    added = run("node", "build/examples/add.js", env=env).splitlines()
    job_id = added[0].removeprefix("added ")
    assert added[1] == "result { charged: 42 }"
    worker.wait_for("charging 42")
    events.wait_for(f"{job_id} charged 42")
    assert worker.end() == 0


@pytest.mark.node
@pytest.mark.parametrize("name", ["endpoint", *FRAMEWORKS])
def test_the_example_of_a_web_handler_runs(
    env: dict[str, str], start: Callable[[str, Mapping[str, str]], Example], queue: str, name: str
) -> None:
    """With a secret: what toril signs is worked on, what a stranger sends is not."""
    port = free_port()
    start(name, {**env, "PORT": str(port), "SECRET": SECRET}).wait_for("ready")
    assert httpx.post(f"http://127.0.0.1:{port}/charge", json={}).status_code == 401
    with Client(env["TORIL"], TOKEN) as client:
        job = client.add(queue, "charge", {"amount": 7})
        assert client.result(queue, job.id) == {"charged": 7}
        assert client.logs(queue, job.id) == ["charging 7"]
        assert client.get(queue, job.id).progress == 50


@pytest.mark.node
def test_without_a_websocket_the_client_says_what_to_install(
    package: Path, env: dict[str, str], tmp_path: Path
) -> None:
    """Installed by itself, it imports, adds and needs `ws` for nothing but a worker."""
    installed = tmp_path / "node_modules/toril-client"
    shutil.copytree(package / "dist", installed / "dist")
    shutil.copy(package / "package.json", installed)
    program = tmp_path / "program.mjs"
    program.write_text("""
        import { Client } from "toril-client";
        delete globalThis.WebSocket;
        const queue = new Client(process.env.TORIL, process.env.TOKEN).queue(process.env.QUEUE);
        console.log((await queue.add("n", 1)).data);
        await queue.worker(() => 1).run().catch((error) => console.log(error.message));
    """)
    printed = run("node", str(program), env=env).splitlines()
    assert printed == ["1", "there is no WebSocket here: install the package ws, or run Node 22 or newer"]


def test_the_readme_shows_the_examples_as_they_are() -> None:
    shown = re.findall(r"```ts\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert shown == [(PACKAGE / f"examples/{name}.ts").read_text() for name in ("worker", "add")]


def test_the_package_ships_no_dependencies_and_names_no_registry() -> None:
    manifest = json.loads((PACKAGE / "package.json").read_text())
    assert "dependencies" not in manifest
    assert manifest["peerDependenciesMeta"] == {"ws": {"optional": True}}
    assert "://" not in (PACKAGE / "package.json").read_text() + (PACKAGE / "package-lock.json").read_text()
