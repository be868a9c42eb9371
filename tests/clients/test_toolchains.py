"""Where the browser of the TypeScript client's test comes from."""

import os
from pathlib import Path

import pytest

from tests.clients.toolchains import find_chromium


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing installed, whose user is root."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "1")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_without_chromium_ci_installs_it_and_says_so(programs: Path) -> None:
    chromium, said = programs / "chromium", list[str]()
    program(
        programs / "apt-get",
        f"""case "$*" in
        *" update") ;;
        *" install --yes "*" chromium") echo > {chromium} && /bin/chmod 755 {chromium} ;;
        *) exit 9 ;;
    esac""",
    )
    assert find_chromium(said.append) == str(chromium)
    assert "installing Debian's" in said[0]
    assert find_chromium(said.append) == str(chromium)
    assert len(said) == 2, "it is installed once"


@pytest.mark.parametrize(("script", "fault"), [("exit 100", "failed"), ("exit 0", "there is no program")])
def test_ci_fails_when_it_cannot_be_installed(programs: Path, script: str, fault: str) -> None:
    program(programs / "apt-get", script)
    with pytest.raises(AssertionError, match=fault):
        find_chromium(print)


def test_ci_fails_if_chromium_cannot_be_installed(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="no apt-get"):
        find_chromium(print)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(AssertionError, match="only root"):
        find_chromium(print)


def test_outside_ci_nothing_is_installed(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(programs / "apt-get", "exit 9")
    monkeypatch.delenv("CI")
    assert find_chromium(print) is None
    assert find_chromium(print) is None
    there = program(programs / "chromium-browser", "exit 0")
    assert find_chromium(print) == str(there)
