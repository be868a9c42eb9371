"""The examples of the Python client's README, as separate programs."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.clients.webhooks import SECRET
from tests.support.gateway import TOKEN
from tests.support.ports import free_port
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually
from toril_client import Client

PACKAGE = Path(__file__).parents[2] / "clients/python"


class Example:
    """A running example, whose lines are collected as they come."""

    def __init__(self, name: str, env: dict[str, str]) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, str(PACKAGE / f"examples/{name}.py")],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
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
        """Wait until it has printed a line with this in it."""
        eventually(lambda: any(line in one for one in self.lines), timeout_s=30, what=f"{line!r} in {self.lines[-20:]}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in self._process.stdout)


@pytest.fixture
def start(toril: TorilProcess, queue: str) -> Iterator[Callable[..., Example]]:
    """Starts examples on a queue of the test's own."""
    env = os.environ | {"TORIL": toril.url, "TOKEN": TOKEN, "QUEUE": queue, "PYTHONUNBUFFERED": "1"}
    env["PYTHONPATH"] = str(PACKAGE / "src")
    with ExitStack() as stack:
        yield lambda name, **more: stack.enter_context(Example(name, env | more))


def answered(url: str) -> int:
    """The status of a request without a signature; 0 while nothing listens."""
    try:
        return httpx.post(url, json={}).status_code
    except httpx.ConnectError:
        return 0


@pytest.mark.parametrize("name", ["worker", "add"])
def test_the_readme_shows_the_examples_as_they_are(name: str) -> None:
    code = (PACKAGE / f"examples/{name}.py").read_text().partition("\n\n")[2]
    assert f"```python\n{code}```" in (PACKAGE / "README.md").read_text()


def test_the_worker_works_on_what_is_added_and_ends_in_good_order(start: Callable[..., Example]) -> None:
    worker, events = start("worker"), start("events")
    added = start("add")
    added.wait_for("result {'charged': 42}")
    worker.wait_for("charging 42")
    events.wait_for("completed " + added.lines[0].removeprefix("added "))
    assert worker.end() == 0


@pytest.mark.parametrize("name", ["endpoint", "with_fastapi", "with_flask", "with_django"])
def test_the_web_handler_works_on_what_is_pushed(
    toril: TorilProcess, queue: str, start: Callable[..., Example], name: str
) -> None:
    """With a secret: what toril signs is worked on, what a stranger sends is not."""
    port = free_port()
    start(name, PORT=str(port), SECRET=SECRET).wait_for("ready")
    answer = eventually(lambda: answered(f"http://127.0.0.1:{port}/charge"), what="the server to listen")
    assert answer == 401
    with Client(toril.url, TOKEN) as client:
        job = client.add(queue, "charge", {"amount": 7})
        assert client.result(queue, job.id) == {"charged": 7}
        assert client.logs(queue, job.id) == ["charging 7"]
        assert client.get(queue, job.id).progress == 50
