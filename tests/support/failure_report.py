"""A pytest plugin: a failed test shows what its servers logged meanwhile, and the command that repeats it."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

SHOWN = 8000
"""How many characters of a server's log are shown: the last ones."""


class LoggingServer(Protocol):
    """A server whose log is shown when a test fails."""

    @property
    def port(self) -> int: ...

    @property
    def log_path(self) -> Path: ...

    def log(self) -> str:
        """Return everything it has printed."""


_SERVERS = pytest.StashKey[list[LoggingServer]]()
_LOG_LENGTHS = pytest.StashKey[dict[Path, int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SERVERS] = []


def watch(config: pytest.Config, server: LoggingServer) -> None:
    """Show this server's log with each test that fails from now on."""
    config.stash[_SERVERS].append(server)


def unwatch(config: pytest.Config, server: LoggingServer) -> None:
    """Show this server's log no longer."""
    config.stash[_SERVERS].remove(server)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Remember how long each server's log was before the test."""
    item.stash[_LOG_LENGTHS] = {server.log_path: len(server.log()) for server in item.config.stash[_SERVERS]}
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Add to the report of a failed test what its servers logged, and how to run it again."""
    report = yield
    if report.failed:
        lengths = item.stash.get(_LOG_LENGTHS, {})
        for server in item.config.stash[_SERVERS]:
            logged = _last_lines(server.log()[lengths.get(server.log_path, 0) :])
            report.sections.append((f"toril on port {server.port} logged ({server.log_path})", logged))
        report.sections.append(("run it again", _command(item)))
    return report


def _last_lines(log: str) -> str:
    if len(log) <= SHOWN:
        return log
    return "…\n" + log[-SHOWN:].partition("\n")[2]


def _command(item: pytest.Item) -> str:
    """Return the command for this test alone, with the same examples where hypothesis made some."""
    command = [".venv/bin/pytest", item.nodeid]
    seed = item.config.getoption("--hypothesis-seed", None)
    if seed is not None and getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        command.append(f"--hypothesis-seed={seed}")
    return shlex.join(command)
