"""What an operator can set about metrics and logs."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class MetricsPolicy(Struct, frozen=True, kw_only=True):
    """The number of queues that `/metrics` shows by name, and the folder in which processes share their metrics."""

    max_queues: int = 100
    folder: str | None = None


class LogPolicy(Struct, frozen=True, kw_only=True):
    """The level and form of log lines. `auto` is human on a terminal and JSON otherwise."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"
