"""npm and go, run in the folders of the clients that are written for them, and a browser for one of them."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "clients/typescript"
GO_FOLDER = Path(__file__).parents[2] / "clients/go"
GO_INSTALLED = "/usr/local/go/bin"  # where Go's own installer puts it, often without a word in PATH
COMPILING_S = 240
INSTALLING_S = 600
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
APT_GET = ("apt-get", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3")


def run(*command: str, env: Mapping[str, str] | None = None, timeout_s: float = 220) -> str:
    """Run a command in the package to its end; what it printed."""
    done = subprocess.run(
        command, cwd=PACKAGE, env=os.environ | dict(env or {}), check=False, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout[-8000:]}"
    return done.stdout


def find_chromium(say: Callable[[str], None]) -> str | None:
    """Chromium's program. In CI root installs Debian's when there is none, which must work; elsewhere there is none."""
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found or not os.environ.get("CI"):
        return found
    assert os.geteuid() == 0, "no Chromium is installed, CI must not skip this, and only root could install it"
    assert shutil.which("apt-get"), "no Chromium is installed, CI must not skip this, and there is no apt-get"
    say("no Chromium is installed: installing Debian's for the browser test (apt-get install chromium)")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(*APT_GET, "update", env=quiet, timeout_s=INSTALLING_S / 4)
    run(*APT_GET, "install", "--yes", "--no-install-recommends", "chromium", env=quiet, timeout_s=INSTALLING_S / 2)
    found = shutil.which("chromium")
    assert found, "apt-get installed chromium, and there is no program of this name"
    say(f"installed {found}")
    return found


class GoTool:
    """The `go` command, run in the client's folder."""

    def __init__(self, program: str) -> None:
        self._folder = str(Path(program).parent)
        self.env = os.environ | {"PATH": f"{self._folder}{os.pathsep}{os.environ.get('PATH', '')}"}

    def run(self, *command: str, **env: str) -> str:
        """What a command prints; it must succeed."""
        done = subprocess.run(
            command, cwd=GO_FOLDER, env=self.env | env, check=False, capture_output=True, text=True, timeout=COMPILING_S
        )
        assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
        return done.stdout

    @cached_property
    def flags(self) -> list[str]:
        """`-race`, where there is a C compiler for it; for all that is built, so that it is built once."""
        enabled = self.run("go", "env", "CGO_ENABLED").strip() == "1"
        return ["-race"] if enabled and shutil.which(self.run("go", "env", "CC").split()[0]) else []
