"""Programs that are Go modules: from a wheel beside Python, or built once into the user's cache by their version.

``python3 -m tests.support.go_tools`` builds those that no wheel brings, before there is an environment for the tests.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

INSTALLED = "/usr/local/go/bin"  # where Go's own installer puts it, often without a word in PATH
BUILDING_S = 900
"""Helm takes nearly three minutes of CPU where it has to be built and nothing of it is in the caches."""
_QUICKLY_BUILT = "-trimpath '-gcflags=all=-N -l -dwarf=false' '-ldflags=-s -w'"
"""Programs that a few tests run once are not worth optimising: without, Helm takes 160 s of CPU instead of 400."""

TOOLS = {
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
}

IN_WHEELS = {"helm"}
"""What a wheel brings on Linux on x86-64."""


def go_tool(name: str) -> str:
    """The path of a program. Skipped where it has to be built and Go is missing, but not in CI."""
    installed = Path(sys.executable).with_name(name)
    if installed.exists():
        return str(installed)
    go = _go()
    if go is None:
        from tests.support.toolchains import missing  # noqa: PLC0415 - pytest is not there before the environment

        missing("go")
    return _built(name, go)


def _go() -> str | None:
    return shutil.which("go") or shutil.which("go", path=INSTALLED)


def _built(name: str, go: str) -> str:
    module = TOOLS[name]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "toril-tests"
    folder = cache / module.rpartition("@")[2] / name
    program = folder / name
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"building-{os.getpid()}"  # another process may build it too; the last one to move wins
        env = os.environ | {"GOBIN": str(own), "GOFLAGS": _QUICKLY_BUILT}
        done = subprocess.run([go, "install", module], env=env, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"go install {module} failed:\n{done.stderr[-4000:]}"
        (own / name).rename(program)
        own.rmdir()
    return str(program)


if __name__ == "__main__":
    if found := _go():
        for each in TOOLS.keys() - IN_WHEELS:
            _built(each, found)
