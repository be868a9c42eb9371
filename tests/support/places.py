"""Where a toril keeps its deliveries and their queues: the two ways of running that suites run over."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.alone import NO_REDIS

BOTH = ("redis and sqlite", "postgresql alone")
"""The parameters of a fixture that runs a suite over both; see `where`."""


@dataclass(frozen=True)
class Where:
    """`more` are the keys of the configuration file that say where, and `redis_url` is the Redis, if there is one."""

    redis_url: str
    more: dict[str, Any]
    has_redis: bool


def where(request: pytest.FixtureRequest, folder: Path) -> Where:
    """The place that a fixture with the parameters `BOTH` asks for, new and empty, apart from a shared Redis."""
    if request.param == "postgresql alone":
        url = request.getfixturevalue("postgres").database()
        return Where(NO_REDIS.url, {"redis": "none", "ledger": {"url": url}}, has_redis=False)
    url = f"sqlite:///{folder}/ledger.sqlite3"
    return Where(request.getfixturevalue("valkey").url, {"ledger": {"url": url}}, has_redis=True)
