"""The wall clock that all instances on one Redis share: Redis' own, as this process knows it.

Due times, leases and deadlines are written by one instance and read by another, whose machine may have another time. So
they all go by Redis' clock. It is measured now and then against the monotonic clock, and read without asking Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from toril.core.errors import StoreError
from toril.core.ports.shared import Now

log = structlog.get_logger(__name__)

_EVERY_S = 5.0
_TOO_SLOW_S = 1.0
_GRAIN_S = 0.001
"""BullMQ's: a smaller difference is none."""
_SKEWED_S = 1.0

Ask = Callable[[], Awaitable[Any]]
"""Sends `TIME`, and returns the reply."""


class RedisClock:
    """Redis' time. Until it has been measured once, it is this machine's.

    Args:
        wall: this machine's time.
        monotonic: what goes on evenly, whatever is done to the machine's time.
    """

    def __init__(self, wall: Now = time.time, monotonic: Now = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._ahead_s: float | None = None
        self._skewed = False

    def __call__(self) -> float:
        """Seconds since the epoch, UTC."""
        return self._wall() if self._ahead_s is None else self._monotonic() + self._ahead_s

    @property
    def measured(self) -> bool:
        """True once it is Redis' time."""
        return self._ahead_s is not None

    async def measure(self, ask: Ask) -> None:
        """Compare with Redis. What is known stays as it is unless the answer proves it wrong, so that time runs evenly.

        Raises:
            StoreError: Redis did not answer.
        """
        before = self._monotonic()
        seconds, microseconds = await ask()
        after = self._monotonic()
        # Redis read its clock at some moment between the two.
        told_s = int(seconds) + int(microseconds) / 1e6
        least, most = told_s - after, told_s - before
        if self._ahead_s is not None:
            proves_nothing = least - _GRAIN_S <= self._ahead_s <= most + _GRAIN_S
            if proves_nothing or after - before > _TOO_SLOW_S:
                return
        self._ahead_s = (least + most) / 2
        self._compare()

    async def run(self, ask: Ask) -> None:
        """Measure until cancelled."""
        while True:
            try:
                await self.measure(ask)
            except StoreError as exc:
                log.debug("clock.not_measured", error=exc.message)
            await asyncio.sleep(_EVERY_S)

    def _compare(self) -> None:
        """Say that this machine's time is another one; nothing here goes by it, but its logs do."""
        skew_s = self._wall() - self()
        skewed = abs(skew_s) > _SKEWED_S
        if skewed and not self._skewed:
            log.warning("clock.skewed", ahead_of_redis_s=round(skew_s, 3), hint="due times go by the clock of Redis")
        self._skewed = skewed
