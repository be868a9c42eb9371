"""A toril that is started as proxq is, by a file of proxq's, and a client that sends and reads bytes exactly."""

import json
import socket
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.endpoint import Answer, Behaviour, Call, Endpoint, respond
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

Pairs = tuple[tuple[str, str], ...]
SOURCE = ("x-proxq-source", "proxq")


@dataclass(frozen=True)
class Reply:
    """An answer, header by header; names in lower case."""

    status: int
    headers: Pairs
    body: bytes

    def values(self, name: str) -> list[str]:
        """All values of a header, in order."""
        return [value for key, value in self.headers if key == name]

    def value(self, name: str) -> str | None:
        """The only value of a header."""
        values = self.values(name)
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def is_ours(self) -> bool:
        """Whether toril itself says this."""
        return self.values("x-proxq-source") == ["proxq"]

    @property
    def job_id(self) -> str:
        """The job that a submission was answered with."""
        assert (self.status, self.is_ours) == (202, True), self
        job_id = self.json["jobId"]
        assert isinstance(job_id, str)
        return job_id


def send(
    port: int,
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    timeout_s: float = 30.0,
) -> Reply:
    """Send exactly this request (and `Host`); a body gets its length."""
    given = list(headers)
    lines = [f"{method} {target} HTTP/1.1", f"host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in given]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return exchange(port, "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""), timeout_s)


def exchange(port: int, sent: bytes, timeout_s: float = 30.0) -> Reply:
    """Send bytes, and read one answer to its end."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(sent)
        received = b""
        while b"\r\n\r\n" not in received:
            part = connection.recv(65_536)
            assert part, f"no whole answer: {received!r}"
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = tuple((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
        status = int(first.split(" ")[1])
        length = next((int(value) for name, value in pairs if name == "content-length"), None)
        if sent.startswith(b"HEAD ") or status in (204, 304):
            return Reply(status, pairs, body)
        while length is None or len(body) < length:
            part = connection.recv(65_536)
            if not part:
                assert length is None, f"the body ended after {len(body)} of {length} bytes"
                break
            body += part
    return Reply(status, pairs, body)


def answering(status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> Answer:
    """An answer with these headers, byte for byte (latin-1), and its length behind them."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers), f"content-length: {len(body)}"]
    return Answer(("\r\n".join([*lines, "", ""]).encode("latin-1") + body,))


class Proxq:
    """One toril that serves as proxq."""

    def __init__(self, process: TorilProcess, queue: str, jobs_path: str = "/__jobs") -> None:
        self.process = process
        self.jobs_path = jobs_path
        self.queue = queue

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.process.port

    def send(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
    ) -> Reply:
        """One request, as it is."""
        return send(self.port, method, target, headers, body)

    def submit(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
    ) -> str:
        """Submit a request that is queued; its job's id."""
        return self.send(method, target, headers, body).job_id

    def status(self, job_id: str) -> Reply:
        """What the jobs API says of a job."""
        return self.send("GET", f"{self.jobs_path}/{job_id}")

    def content(self, job_id: str, method: str = "GET", headers: Iterable[tuple[str, str]] = ()) -> Reply:
        """The replayed answer, or why there is none."""
        return self.send(method, f"{self.jobs_path}/{job_id}/content", headers)

    def cancel(self, job_id: str) -> Reply:
        """Cancel a job."""
        return self.send("DELETE", f"{self.jobs_path}/{job_id}")

    def is_in(self, job_id: str, status: str) -> Any:
        """The job's JSON, as soon as it has this status."""

        def probe() -> Any:
            found = self.status(job_id)
            assert found.status == 200, found
            return found.json if found.json["status"] == status else None

        return eventually(probe, timeout_s=30, what=f"job {job_id} to be {status}")

    def replayed(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
    ) -> Reply:
        """Submit, wait, and fetch the answer."""
        job_id = self.submit(method, target, headers, body)
        self.is_in(job_id, "completed")
        found = self.content(job_id)
        assert not found.is_ours
        return found


class Backend:
    """An upstream whose answer to a path is what a test says; other paths are answered with what came."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._behaviours: dict[str, Behaviour] = {}
        endpoint.behaviour = self._answer

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self.endpoint.port}"

    def path(self, behaviour: Behaviour | Answer | None = None) -> str:
        """A path of the test's own, answered like this."""
        path = f"/{uuid.uuid4().hex}"
        if behaviour is not None:
            self._behaviours[path] = (lambda _: behaviour) if isinstance(behaviour, Answer) else behaviour
        return path

    def calls(self, path: str) -> list[Call]:
        """The calls of this path (anywhere in the target), in order."""
        return [call for call in self.endpoint.calls if path in call.target]

    def called(self, path: str, count: int = 1) -> list[Call]:
        """The same, as soon as there are so many."""
        eventually(lambda: len(self.calls(path)) >= count, timeout_s=30, what=f"{count} calls of {path}")
        return self.calls(path)

    def _answer(self, call: Call) -> Any:
        for path, behaviour in list(self._behaviours.items()):
            if path in call.target:
                return behaviour(call)
        return respond(body=call.body)


StartProxq = Callable[..., Proxq]
"""Starts a toril with a document of proxq's; takes what `TorilProcess` takes beside it."""


def started(
    folder: Path, valkey: ValkeyProcess, document: dict[str, Any], **options: Any
) -> tuple[TorilProcess, Proxq]:
    """A process that is not running yet, for a document of proxq's; queue and Redis are added.

    The file is given by `--config`, or by a variable (`named_by`).
    """
    name = uuid.uuid4().hex[:8]
    whole = {"queue": f"px-{name}", "redis": {"addr": f"127.0.0.1:{valkey.port}"}} | document
    file = folder / f"proxq-{name}.yaml"
    file.write_text(yaml.safe_dump(whole))
    # Registered workers of its own: those of the other tests on a shared Valkey are not for it to run.
    workers = {"WORKER_METADATA_KEY": f"px-{name}:workers", "WORKER_METADATA_STREAM": f"px-{name}:news"}
    environment = {"REDIS_URL": None, "AUTH_TOKENS": None} | workers | dict(options.pop("env", {}))
    named_by = options.pop("named_by", None)
    if named_by is not None:
        environment[named_by] = str(file)
    args = ["--config", str(file)] if named_by is None else []
    process = TorilProcess(valkey.url, folder / f"proxq-{name}.log", args=args, env=environment, **options)
    return process, Proxq(process, whole["queue"], whole.get("jobsPath", "/__jobs"))
