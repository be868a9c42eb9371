"""The scenarios: how each is prepared, driven, checked and cleaned up after."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.measurement import Scenario
from benchmarks.scenarios import idle, push, requests

MAKERS: dict[str, Callable[[Bench], list[Scenario]]] = {
    "add": requests.add,
    "bulk": requests.bulk,
    "get": requests.get,
    "push": push.push,
    "latency": push.latency,
    "idle": idle.idle,
}
