"""The Python client's handlers for web frameworks: a real toril pushes jobs to a server of each of them."""

import asyncio
import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

import toril_client.starlette
from tests.clients.push_servers import SERVERS
from tests.clients.webhooks import SECRET
from tests.support.gateway import TOKEN
from tests.support.toril import TorilProcess
from tests.support.waiting import eventually
from toril_client import AsyncPushedJob, Client, JobFailed, Later, PushedJob, RetryIn, Unrecoverable
from toril_client.handling import Handling

OTHER = "whsec_" + "b3Ro" * 8
PATIENT = {"attempts": 5, "backoff": {"type": "fixed", "delay": 600_000}}


class Working:
    """A function of pushed jobs that does what their data says, once blocking and once awaited."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.calls: list[str] = []
        self.kept: list[PushedJob | AsyncPushedJob] = []

    def _act(self, pushed: PushedJob | AsyncPushedJob) -> Any:
        self.calls.append(pushed.data["do"])
        match pushed.data["do"]:
            case "throw":
                raise ValueError("unlucky")
            case "hopeless":
                raise Unrecoverable("no such card")
            case "again" if self.calls.count("again") == 1:
                raise RetryIn(0.01)
            case "later":
                self.kept.append(pushed)
                return Later(600)
            case "odd":
                return float("nan")
        return {"thread": threading.current_thread() is threading.main_thread(), "did": pushed.data["do"]}

    def work(self, pushed: PushedJob) -> Any:
        pushed.log(self._url, "half")
        pushed.progress(self._url, 50)
        return self._act(pushed)

    async def async_work(self, pushed: AsyncPushedJob) -> Any:
        await pushed.log(self._url, "half")
        await pushed.progress(self._url, 50)
        return self._act(pushed)


@pytest.fixture
def working(toril: TorilProcess) -> Working:
    return Working(toril.url)


@pytest.fixture
def client(toril: TorilProcess) -> Iterator[Client]:
    with Client(toril.url, TOKEN) as client:
        yield client


def failed(client: Client, queue: str, data: Any, **options: Any) -> tuple[str, str, int]:
    """Add a job that fails; its failedReason, the trace of its last attempt, and how many attempts it had."""
    added = client.add(queue, "n", data, **options)
    with pytest.raises(JobFailed):
        client.result(queue, added.id)
    job = client.get(queue, added.id)
    return str(job.failed_reason), str(job.raw["stacktrace"][-1]), job.attempts_made


@pytest.mark.parametrize("kind", ["work", "async_work"])
@pytest.mark.parametrize("framework", SERVERS)
def test_what_a_function_does_says_how_its_job_goes_on(
    toril: TorilProcess, client: Client, queue: str, working: Working, framework: str, kind: str
) -> None:
    handler = SERVERS[framework](toril.url, getattr(working, kind), secrets=[OTHER, SECRET])
    with handler as url:
        client.register_worker(queue, f"{url}/charge", timeout_ms=20_000, secrets=[SECRET])
        done = client.add(queue, "n", {"do": "charge"})
        assert client.result(queue, done.id)["did"] == "charge"
        assert client.get(queue, done.id).progress == 50
        assert client.logs(queue, done.id) == ["half"]

        reason, trace, _ = failed(client, queue, {"do": "throw"})
        assert reason == "Internal Server Error"
        assert "ValueError: unlucky" in trace
        assert "Out of range float" in failed(client, queue, {"do": "odd"})[1]
        assert failed(client, queue, {"do": "hopeless"}, **PATIENT)[::2] == ("no such card", 1)
        again = client.add(queue, "n", {"do": "again"}, **PATIENT)
        assert client.result(queue, again.id)["did"] == "again"

        later = client.add(queue, "n", {"do": "later"})
        eventually(lambda: working.kept, what="the job that is settled later")
        pushed = working.kept[0]
        if isinstance(pushed, AsyncPushedJob):
            asyncio.run(pushed.complete(toril.url, "by its token"))
        else:
            pushed.complete(toril.url, "by its token")
        assert client.result(queue, later.id) == "by its token"
        client.unregister_worker(queue)
    assert working.calls == ["charge", "throw", "odd", "hopeless", "again", "again", "later"]


@pytest.mark.parametrize("framework", SERVERS)
def test_what_toril_did_not_sign_is_refused_and_fails_its_job(
    toril: TorilProcess, client: Client, queue: str, working: Working, framework: str
) -> None:
    with SERVERS[framework](toril.url, working.work, secrets=SECRET) as url:
        client.register_worker(queue, f"{url}/charge", timeout_ms=20_000, secrets=[OTHER])
        reason, trace, _ = failed(client, queue, {"do": "charge"})
        assert (reason, "the request's signature is wrong" in trace) == ("Unauthorized", True)
        client.unregister_worker(queue)
        stranger = httpx.post(f"{url}/charge", json={"job": {}})
        assert (stranger.status_code, stranger.text) == (401, "the request is not signed")
    assert working.calls == []


@pytest.mark.parametrize("framework", SERVERS)
def test_a_body_over_the_limit_is_refused_and_fails_its_job(
    toril: TorilProcess, client: Client, queue: str, working: Working, framework: str
) -> None:
    with SERVERS[framework](toril.url, working.work, max_body_bytes=5000) as url:
        client.register_worker(queue, f"{url}/charge", timeout_ms=20_000)
        fits = client.add(queue, "n", {"do": "charge"})
        assert client.result(queue, fits.id)["did"] == "charge"
        _, trace, _ = failed(client, queue, {"do": "x" * 5000})
        assert "the body is larger than 5000 bytes" in trace
        client.unregister_worker(queue)
        assert httpx.post(f"{url}/charge", content=b"x" * 5001).status_code == 413
        nothing = httpx.post(f"{url}/charge", content=b"x" * 5000)
        assert (nothing.status_code, nothing.text) == (400, "the request holds no pushed job")
        assert httpx.get(f"{url}/charge").status_code == 405
    assert working.calls == ["charge"]


def test_a_body_that_does_not_say_its_length_is_read_up_to_the_limit(working: Working) -> None:
    with SERVERS["starlette"]("http://127.0.0.1:9", working.work, max_body_bytes=5000) as url:
        assert httpx.post(f"{url}/charge", content=iter([b"x" * 3000] * 2)).status_code == 413
        assert httpx.post(f"{url}/charge", content=iter([b"x" * 1000] * 2)).status_code == 400


async def test_a_body_without_end_is_read_no_further_than_the_limit(working: Working) -> None:
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        assert asked < 10
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    handle = toril_client.starlette.push_handler("http://127.0.0.1:9", working.work, max_body_bytes=5000)
    response = await handle(Request({"type": "http", "method": "POST", "headers": []}, receive))
    assert (response.status_code, asked) == (413, 6)


def test_a_job_that_cannot_be_failed_for_good_fails_its_attempt(working: Working) -> None:
    """toril cannot be reached with the lock token, so the answer says what there is to say."""
    body = b'{"job": {"id": "1", "name": "n", "data": {}, "queueQualifiedName": "bull:orders"}, "token": "t"}'

    def hopeless(_: PushedJob) -> None:
        raise Unrecoverable("no such card")

    status, _, answer = Handling("http://127.0.0.1:9", hopeless).answer(body, {})
    assert (status, b"Unrecoverable: no such card" in answer) == (500, True)


@pytest.mark.parametrize("secrets", ["", "hunter2", ["whsec_"], [SECRET, "whsec_hunter2"]])
def test_what_is_no_secret_is_refused_before_the_first_request(secrets: Any, working: Working) -> None:
    with pytest.raises(ValueError, match="a secret is whsec_") as caught:
        Handling("http://127.0.0.1:9", working.work, secrets)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("framework", ["starlette", "django", "flask"])
def test_a_framework_that_is_missing_is_named(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one taken that lacks what is used of it: the import says what."""
    for name in [*sys.modules]:
        if name.partition(".")[0] == framework:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, f"toril_client.{framework}")
    monkeypatch.setitem(sys.modules, framework, None)
    with pytest.raises(ImportError, match=rf"needs {framework}: pip install 'toril-client\[{framework}\]'"):
        importlib.import_module(f"toril_client.{framework}")


def test_the_client_alone_imports_no_framework() -> None:
    program = "import sys, toril_client; print({'starlette', 'django', 'flask'} & set(sys.modules))"
    assert (
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(Path(toril_client.__file__).parents[1])},
        ).stdout
        == "set()\n"
    )
