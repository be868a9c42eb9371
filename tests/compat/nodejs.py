"""Running the Node scripts: JSON in by arguments, JSON lines out."""

import json
import subprocess
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.support.waiting import eventually

Fact = dict[str, Any]


class Node:
    """One major version of Node BullMQ. Scripts that run on are ended with the test."""

    def __init__(self, version: str, redis_url: str, folder: Path, stack: ExitStack) -> None:
        self.version = version
        self._redis_url = redis_url
        self._folder = folder
        self._stack = stack

    def run(self, script: str, queue: str, **options: Any) -> list[Fact]:
        """Run a script to its end; everything it printed."""
        done = subprocess.run(
            self._command(script, queue, options),
            cwd=self._folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def call(self, queue: str, method: str, *args: Any) -> Any:
        """Call one method of a Node ``Queue``; its result as JSON."""
        (fact,) = self.run("queue.mjs", queue, calls=[[method, *args]])
        return fact["result"]

    def start(self, script: str, queue: str, **options: Any) -> "Script":
        """Start a script that runs on, and wait until it is ready."""
        script_ = self._stack.enter_context(Script(self._command(script, queue, options), self._folder))
        script_.wait_for(1, "ready")
        return script_

    def _command(self, script: str, queue: str, options: dict[str, Any]) -> list[str]:
        return ["node", script, self.version, self._redis_url, queue, json.dumps(options)]


class Script:
    """A running script, whose lines are collected as they come."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._facts: list[Fact] = []
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_facts, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def facts(self, kind: str) -> list[Fact]:
        """What was printed with this key so far."""
        return [fact for fact in list(self._facts) if kind in fact]

    def events(self, name: str) -> list[Fact]:
        """The events of this name so far."""
        return [fact for fact in self.facts("event") if fact["event"] == name]

    def wait_for(self, count: int, kind: str, timeout_s: float = 30.0) -> list[Fact]:
        """The facts with this key, as soon as there are ``count`` of them."""

        def probe() -> list[Fact]:
            found = self.facts(kind)
            if self._process.poll() is not None and len(found) < count:
                raise AssertionError(f"the script ended: {''.join(self._errors)}")
            return found if len(found) >= count else []

        return eventually(probe, timeout_s=timeout_s, what=f"{count} lines with {kind!r}")

    def send(self, message: Any) -> None:
        """Write a line of JSON to its input."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Close its input, which ends it in good order; by force if it does not."""
        process = self._process
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        for reader in self._readers:
            reader.join(5)
        process.stdout.close()
        process.stderr.close()

    def _read_facts(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._facts.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self._process.stderr
        self._errors.extend(self._process.stderr)


class LiveNode(Script):
    """A process that calls methods of BullMQ's classes, for as long as tests run: no start-up for each call."""

    def __init__(self, version: str, redis_url: str, folder: Path) -> None:
        super().__init__(["node", "serve.mjs", version, redis_url, "-"], folder)
        self.version = version
        self._asked = 0

    def ask(self, kind: str, queue: str, method: str, *args: Any, job: str = "") -> Any:
        """What a method (or a property) of an object gives: a `Queue`, a `Job` by its id, or another class."""
        return self._answer(self._send(kind, queue, method, args, job), f"{kind}.{method}")

    def each(self, names: Sequence[str], method: str, *args: Any) -> list[Any]:
        """Call a method of several queues at once."""
        asked = [self._send("Queue", name, method, args, "") for name in names]
        return [self._answer(number, f"{method} of {name}") for number, name in zip(asked, names, strict=True)]

    def _send(self, kind: str, queue: str, method: str, args: Sequence[Any], job: str) -> int:
        self._asked += 1
        asked = self._asked
        self.send({"n": asked, "kind": kind, "queue": queue, "id": job, "method": method, "args": list(args)})
        return asked

    def _answer(self, asked: int, what: str) -> Any:
        def answered() -> Fact | None:
            return next((fact for fact in reversed(list(self._facts)) if fact.get("n") == asked), None)

        fact = eventually(answered, timeout_s=20.0, what=what)
        assert fact is not None
        if "error" in fact:
            raise NodeError(fact["error"])
        return fact["ok"]

    def queue(self, name: str, method: str, *args: Any) -> Any:
        """Call a method of a queue."""
        return self.ask("Queue", name, method, *args)

    def job(self, queue: str, job_id: str, method: str, *args: Any) -> Any:
        """Call a method of a job."""
        return self.ask("Job", queue, method, *args, job=job_id)


class NodeError(Exception):
    """What a method threw."""
