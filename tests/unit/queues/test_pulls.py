import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from toril.queues import pulls
from toril.queues.pulls import Pulls


class Swept:
    """The queues with leases, and the store of each: how often one was swept."""

    def __init__(self) -> None:
        self.looks = 0
        self.swept = asyncio.Event()

    async def all(self) -> list[str]:
        self.looks += 1
        return ["orders"]

    def of(self, queue: str, rules: object) -> "Swept":
        assert rules == "the rules of its worker"
        return self

    async def recover_lapsed(self, interval_ms: int) -> list[bytes]:
        self.swept.set()
        return []


async def test_lapsed_leases_are_recovered_by_the_rules_of_their_workers_so_not_before_these_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulls, "_SWEEP_S", 0.0)
    known = False
    store = Swept()
    shared = SimpleNamespace(measures=None, tracing=None, waits=None, tokens=None, now=None)
    made = Pulls(
        cast(Any, store),
        cast(Any, store),
        cast(Any, shared),
        cast(Any, None),
        lambda queue: cast(Any, "the rules of its worker"),
        lambda: 0.5,
    )
    async with asyncio.TaskGroup() as tasks:
        sweeping = tasks.create_task(made.run(lambda: known))
        for _ in range(20):
            await asyncio.sleep(0)
        assert store.looks == 0
        known = True
        async with asyncio.timeout(5):
            await store.swept.wait()
        sweeping.cancel()
