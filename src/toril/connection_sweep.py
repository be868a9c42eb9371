"""One look per second at all connections of callers, instead of timers for each: ends those that take too long, and
keeps a reserve of file descriptors by closing connections that can be spared.

It reads no bytes and writes none; what a connection waits for, and how it is ended, is the connection's business.
"""

from __future__ import annotations

import asyncio
import enum
import heapq
import itertools
from collections.abc import Collection

import structlog

from toril.core.policy import ConnectionPolicy
from toril.descriptors import Descriptors, count_open

log = structlog.get_logger(__name__)

_INTERVAL_S = 1.0
_TOLD_EVERY_S = 10.0


class Spare(enum.IntEnum):
    """What a connection is that can be spared. The lowest is closed first."""

    SILENT = 0
    """It has sent no whole head for a while."""
    IDLE = 1
    """It has been answered and has asked for nothing since."""
    STALLED = 2
    """The body of its request stands still, or nobody takes its answer."""
    YOUNG = 3
    """Its head may be under way: closed only for a newer one, where there is nothing else."""


class Watched:
    """A connection that the sweep looks at: the base of its class. Of two, the older one has the lower number."""

    number: int

    def check(self, now: float, slack_s: float) -> None:
        """End it if it has taken longer than it may, by more than `slack_s`."""
        raise NotImplementedError

    def spare(self, now: float) -> tuple[Spare, float] | None:
        """Return as what it can be spared, and since when it is that. None: not at all."""
        raise NotImplementedError

    def shed(self) -> None:
        """Close it at once: its descriptor is needed."""
        raise NotImplementedError


class ConnectionSweep:
    """The coarse clock that connections keep time by, and what is done to them.

    Args:
        policy: how long what may take.
        descriptors: how many there are; None where that is not looked after.
    """

    def __init__(self, policy: ConnectionPolicy, descriptors: Descriptors | None = None) -> None:
        self.policy = policy
        # Seconds that this process has run, as far as it has come round to look. A process that was stopped for a
        # minute has not listened for a minute: its callers have not been silent so long.
        self.now = 0.0
        # How many connections there may be; more are accepted only in place of others.
        self.most = descriptors.connections(descriptors.used) if descriptors is not None else 2**62
        self._descriptors = descriptors
        shortest_s = min(policy.head_timeout_s, policy.body_timeout_s, policy.idle_timeout_s)
        self._interval_s = min(_INTERVAL_S, shortest_s / 4)
        self.numbers = itertools.count()
        self._shed = 0
        self._told_at = -_TOLD_EVERY_S

    async def run(self, connections: Collection[object]) -> None:
        """Look at these connections until cancelled."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(self._interval_s)
            now = loop.time()
            self.now += min(now - before, 2 * self._interval_s)
            before = now
            try:
                for connection in _watched(connections):
                    connection.check(self.now, self._interval_s)
                self._keep_reserve(connections)
            except Exception:
                log.exception("connections.not_looked_at")

    def make_room(self, connections: Collection[object], newest: Watched) -> bool:
        """Close connections so that the newest can stay; False where none can be spared for it."""
        return self._close_some(connections, 1, newest) > 0

    def _keep_reserve(self, connections: Collection[object]) -> None:
        """Look how many descriptors other things than callers take by now, and what that leaves for these."""
        have = self._descriptors
        if have is not None and (used := count_open(have.limit)) is not None:
            self.most = have.connections(used - len(connections))
            if len(connections) > self.most:
                self._close_some(connections, len(connections) - self.most)
        if self._shed and self.now - self._told_at >= _TOLD_EVERY_S:
            log.warning(
                "connections.shed",
                closed=self._shed,
                left=len(connections),
                hint="callers hold more connections than the limit of file descriptors allows (ulimit -n)",
            )
            self._shed, self._told_at = 0, self.now

    def _close_some(self, connections: Collection[object], count: int, newest: Watched | None = None) -> int:
        """Close those that can best be spared, and a few more than asked for: this search costs as much as there are
        connections, and is not to be made for each newcomer.
        """
        spare = [
            (*found, connection.number, connection)
            for connection in _watched(connections)
            if connection is not newest and (found := connection.spare(self.now)) is not None
        ]
        if newest is None:
            spare = [each for each in spare if each[0] is not Spare.YOUNG]
        chosen = heapq.nsmallest(count + len(spare) // 64, spare)
        for *_, connection in chosen:
            connection.shed()
        self._shed += len(chosen)
        return len(chosen)


def _watched(connections: Collection[object]) -> list[Watched]:
    """Those that are not WebSockets: these are kept alive, and ended, by their pings."""
    return [connection for connection in connections if isinstance(connection, Watched)]
