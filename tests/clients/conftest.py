"""The tools and packages of the clients, made once for all their tests."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.doors import Doors, opened
from tests.clients.toolchains import GO_INSTALLED, PACKAGE, GoTool, find_chromium, run
from tests.support.toolchains import missing, need

INSTALL = ("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")


@pytest.fixture(scope="session")
def package() -> Path:
    """The package, with its tools installed as locked, and library, examples and tests compiled."""
    need("node", "npm")
    installed, lock = PACKAGE / "node_modules/.package-lock.json", PACKAGE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        run(*INSTALL)
    for folder in ("dist", "build"):
        shutil.rmtree(PACKAGE / folder, ignore_errors=True)
    run("npm", "run", "--silent", "build:test")
    return PACKAGE


@pytest.fixture(scope="session")
def chromium(pytestconfig: pytest.Config) -> str:
    """Chromium's program; in CI it is installed where there is none, since CI must not skip this."""

    def say(line: str) -> None:
        with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{line}", file=sys.stderr, flush=True)  # what a process beside others prints to stdout is lost

    program = find_chromium(say)
    if program is None:
        pytest.skip("no Chromium is installed")
    return program


@pytest.fixture(scope="session")
def go() -> GoTool:
    """Go, or the reason why there is none; CI must not skip this."""
    program = shutil.which("go") or shutil.which("go", path=GO_INSTALLED)
    if program is None:
        missing("go")
    return GoTool(program)


@pytest.fixture(scope="session")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """A toril with all doors, for the tests of all clients."""
    with opened(tmp_path_factory.mktemp("doors")) as doors:
        yield doors
