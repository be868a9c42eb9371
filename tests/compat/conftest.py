"""Both majors of Node BullMQ, installed once from the lock file beside their scripts."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.compat.nodejs import LiveNode, Node
from tests.support.toolchains import need
from tests.support.valkey import ValkeyProcess

for checks in ("queue", "job", "others"):
    pytest.register_assert_rewrite(f"tests.compat.parity_{checks}")

FOLDER = Path(__file__).parent / "node"


def installed(folder: Path) -> Path:
    """A folder of scripts, with their packages installed exactly as locked."""
    need("node", "npm")
    done_before = folder / "node_modules" / ".package-lock.json"
    lock = folder / "package-lock.json"
    if not done_before.exists() or done_before.stat().st_mtime < lock.stat().st_mtime:
        command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=110)
        assert done.returncode == 0, f"npm ci failed:\n{done.stderr}"
    return folder


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder of the scripts, with their packages installed exactly as locked."""
    return installed(FOLDER)


@pytest.fixture(params=["5", "6"], ids=["bullmq5", "bullmq6"])
def node(request: pytest.FixtureRequest, node_modules: Path, valkey: ValkeyProcess) -> Iterator[Node]:
    """One major of Node BullMQ on the shared Valkey."""
    with ExitStack() as stack:
        yield Node(request.param, valkey.url, node_modules, stack)


@pytest.fixture(scope="session")
def lives(node_modules: Path, valkey: ValkeyProcess) -> Iterator[dict[str, LiveNode]]:
    """Both majors of Node BullMQ on the shared Valkey, each in one process for all tests."""
    with ExitStack() as stack:
        nodes = {
            f"bullmq{version}": stack.enter_context(LiveNode(version, valkey.url, node_modules)) for version in "56"
        }
        for node in nodes.values():
            node.wait_for(1, "ready", timeout_s=60)
        yield nodes


@pytest.fixture(params=["bullmq5", "bullmq6"])
def live(request: pytest.FixtureRequest, lives: dict[str, LiveNode]) -> LiveNode:
    """One major of Node BullMQ on the shared Valkey."""
    return lives[request.param]
