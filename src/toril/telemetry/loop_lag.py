"""Measures how late the event loop runs timers, which delays everything in the process."""

from __future__ import annotations

import asyncio

from toril.core.metrics import LOOP_LAG_SECONDS
from toril.core.ports import Meter

EVERY_S = 0.25


class LoopLag:
    """Measures four times a second."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self._meter.observe(LOOP_LAG_SECONDS, (), max(0.0, loop.time() - due))
