"""Releasing held jobs ends, also where a toril that still runs holds them again."""

import asyncio
from typing import Any, cast

from toril.bullmq.groups.control import GroupControl
from toril.bullmq.groups.defaults import GroupDefaults
from toril.bullmq.lua.scripts import Scripts


class _HeldAgain:
    """Scripts over a queue whose jobs are held again as soon as they are released."""

    def __init__(self, held: int) -> None:
        self.links = self
        self._held = held
        self.calls = 0

    def of(self, _: bytes) -> "_HeldAgain":
        return self

    async def pipeline(self, commands: list[bytes]) -> list[int]:
        return [1, self._held][: len(commands)]

    async def call(self, *_: Any) -> list[int]:
        self.calls += 1
        assert self.calls < 100, "it goes on for ever"
        return [100, 100]


def test_no_more_batches_are_moved_than_there_were_jobs() -> None:
    scripts, told = _HeldAgain(250), []
    control = GroupControl(cast("Scripts", scripts), "bull", GroupDefaults())
    assert asyncio.run(control.release("orders", told.append)) == 300
    assert told == [100, 200, 300]
