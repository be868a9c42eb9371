"""`.ci/run` installs the programs that a machine lacks while other checks run: tried with stubs of apt-get and make."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "env", "dirname", "id", "mktemp", "rm", "cat", "sleep")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may install packages")


def run(folder: Path, *programs: str, apt_get: str = "exit 0", make: str = "exit 0") -> tuple[int, str, list[str]]:
    """Run it on a machine that has only these programs; its status, its errors, and the calls of apt-get and make."""
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool) or tool)
    for name, body in {"apt-get": apt_get, "make": make, **dict.fromkeys(programs, "exit 0")}.items():
        stub = folder / name
        stub.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "{folder}/calls"\n{body}\n')
        stub.chmod(0o755)
    command = ["/usr/bin/env", f"PATH={folder}", str(folder / "bash"), str(ROOT / ".ci/run")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr, (folder / "calls").read_text().splitlines()


@needs_root
def test_a_missing_program_is_installed_before_the_tests(tmp_path: Path) -> None:
    status, errors, calls = run(tmp_path, "haproxy", "pgbouncer", apt_get="sleep 0.3")
    assert (status, errors) == (0, "")
    installed = calls.index("apt-get install -y -qq --no-install-recommends chromium-headless-shell")
    assert calls.index("make check") < installed < calls.index("make test")


@needs_root
def test_a_failed_installation_ends_the_run_with_its_error(tmp_path: Path) -> None:
    status, errors, calls = run(tmp_path, apt_get="echo no such package >&2; exit 100")
    assert (status, errors) == (1, "install_missing failed:\nno such package\n")
    assert "make test" not in calls


@needs_root
def test_a_failed_check_ends_the_run_after_the_installation(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    status, _, calls = run(tmp_path, apt_get=f'sleep 0.3; echo "$1" > {ended}', make='[ "$1" != check ]')
    assert status != 0
    assert "make test" not in calls
    assert ended.read_text() == "install\n"


@pytest.mark.parametrize("browser", ["chromium-headless-shell", "chromium", "google-chrome"])
def test_nothing_is_installed_where_nothing_is_missing(browser: str, tmp_path: Path) -> None:
    status, _, calls = run(tmp_path, "haproxy", "pgbouncer", browser)
    assert status == 0
    assert [call for call in calls if call.startswith("apt-get")] == []


def test_go_programs_are_built_beside_the_rest_and_have_to_be(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    status, _, calls = run(tmp_path / "good", "haproxy", "pgbouncer", "chromium", "python3")
    assert status == 0
    assert "python3 -m tests.support.go_tools" in calls
    (tmp_path / "bad").mkdir()
    broken = {"make": '[ "$1" = test ] && exit 3; exit 0'}
    (tmp_path / "bad" / "python3").write_text("#!/usr/bin/env bash\necho no Go >&2\nexit 1\n")
    (tmp_path / "bad" / "python3").chmod(0o755)
    status, errors, calls = run(tmp_path / "bad", "haproxy", "pgbouncer", "chromium", **broken)
    assert (status, errors) == (1, "build_go_tools failed:\nno Go\n")
    assert not any(call.startswith("make test") for call in calls)
