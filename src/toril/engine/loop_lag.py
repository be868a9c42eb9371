"""Measures how late the event loop comes to what is due: what everything in the process waits for. Run by bootstrap."""

from __future__ import annotations

import asyncio

from toril.core.metrics import LOOP_LAG_SECONDS
from toril.core.ports.shared import Meter

EVERY_S = 0.25


class LoopLag:
    """Looks four times a second."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self._meter.observe(LOOP_LAG_SECONDS, (), max(0.0, loop.time() - due))
