"""The wall clock that all instances on one Redis share: that of Redis.

Due times, leases and deadlines are written by one instance and read by another, whose machine may have another time. So
all of them use the clock of Redis. It is measured against the monotonic clock every few seconds, and read without
asking Redis.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from toril.core.errors import StoreError
from toril.core.ports import Now

log = structlog.get_logger(__name__)

_EVERY_S = 5.0
_TOO_SLOW_S = 1.0
_GRAIN_S = 0.001
"""BullMQ's resolution: smaller differences do not count."""
_SKEWED_S = 1.0
_FIRST_ASKS = 5
"""How often Redis is asked at first: a process that is just starting may be slow to read one answer."""

Ask = Callable[[], Awaitable[Any]]
"""A function that sends `TIME` and returns the reply."""


class RedisClock:
    """The time of Redis. Until it has been measured once, that of this machine.

    Args:
        wall: the time of this machine.
        monotonic: a clock that runs evenly, even if the time of this machine is set.
    """

    def __init__(self, wall: Now = time.time, monotonic: Now = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._ahead_s: float | None = None
        self._skewed = False

    def __call__(self) -> float:
        """Return the seconds since the epoch, UTC."""
        return self._wall() if self._ahead_s is None else self._monotonic() + self._ahead_s

    @property
    def measured(self) -> bool:
        """True once the time of Redis has been measured."""
        return self._ahead_s is not None

    async def measure(self, ask: Ask) -> None:
        """Measure the time of Redis. The known offset stays unless the reply proves it wrong, so that time runs evenly.

        The first time, Redis is asked up to five times, and the quickest answer counts.

        Raises:
            StoreError: Redis did not answer.
        """
        least, most = await self._bounds(ask)
        more_asks = 0 if self.measured else _FIRST_ASKS - 1
        while more_asks and most - least > _GRAIN_S:
            more_asks -= 1
            again = await self._bounds(ask)
            least, most = min((least, most), again, key=lambda bounds: bounds[1] - bounds[0])
        if self._ahead_s is not None:
            proves_nothing = least - _GRAIN_S <= self._ahead_s <= most + _GRAIN_S
            if proves_nothing or most - least > _TOO_SLOW_S:
                return
        self._ahead_s = (least + most) / 2
        self._compare()

    async def _bounds(self, ask: Ask) -> tuple[float, float]:
        """Ask Redis once. Return the least and the most seconds that its time can be ahead of the monotonic clock."""
        before = self._monotonic()
        seconds, microseconds = await ask()
        after = self._monotonic()
        # Redis read its clock at some moment between the two.
        told_s = int(seconds) + int(microseconds) / 1e6
        return told_s - after, told_s - before

    async def run(self, ask: Ask) -> None:
        """Measure until cancelled."""
        while True:
            try:
                await self.measure(ask)
            except StoreError as exc:
                log.debug("clock.not_measured", error=exc.message)
            await asyncio.sleep(_EVERY_S)

    def _compare(self) -> None:
        """Log a warning if this machine's time is another one: only its log lines use that time."""
        skew_s = self._wall() - self()
        skewed = abs(skew_s) > _SKEWED_S
        if skewed and not self._skewed:
            log.warning("clock.skewed", ahead_of_redis_s=round(skew_s, 3), hint="due times use the clock of Redis")
        self._skewed = skewed
