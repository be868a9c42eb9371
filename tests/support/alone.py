"""A toril without Redis: nothing but PostgreSQL."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.deliveries import configuration

NO_REDIS: Any = SimpleNamespace(url="redis://127.0.0.1:9/0")
"""Stands where the tests start a toril on a Redis: none listens there, and `redis: none` wins over the address."""


def alone(file: Path, ledger: str, targets: dict[str, Any], **more: Any) -> list[str]:
    """Arguments of a toril with these targets on this database alone."""
    return ["--config", str(configuration(file, targets, redis="none", ledger={"url": ledger}, **more))]
