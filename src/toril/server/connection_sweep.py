"""A task that checks all connections of callers once a second, instead of timers for each one.

It ends connections that take too long, and keeps a reserve of file descriptors by closing those that can be spared. It
reads and writes no bytes: the connection knows what it waits for and how to end it.
"""

from __future__ import annotations

import asyncio
import enum
import heapq
import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection

import structlog

from toril.config.settings import ConnectionPolicy
from toril.server.descriptors import Descriptors, count_open

log = structlog.get_logger(__name__)

_INTERVAL_S = 1.0
_LOG_EVERY_S = 10.0


class Spare(enum.IntEnum):
    """Why a connection can be closed. The lowest one is closed first."""

    SILENT = 0
    """It has sent no complete head for a while."""
    IDLE = 1
    """Its last request has been answered."""
    STALLED = 2
    """The body of its request stands still, or its answer is not taken."""
    YOUNG = 3
    """Its head may be under way: closed only for a newer connection, where no other can be spared."""


class SweptConnection(ABC):
    """A connection that the sweep checks. Of two, the older one has the lower number."""

    number: int

    @abstractmethod
    def check(self, now: float, slack_s: float) -> None:
        """End the connection if it has taken longer than it may, by more than `slack_s`."""

    @abstractmethod
    def spare(self, now: float) -> tuple[Spare, float] | None:
        """Return why it can be closed, and since when; None if it cannot."""

    @abstractmethod
    def has_unread(self) -> bool:
        """Return True if its caller has sent something that has not been read yet. Costs a system call."""

    @abstractmethod
    def shed(self) -> None:
        """Close it at once: its descriptor is needed."""


class ConnectionSweep:
    """The coarse clock of all connections, and the checks by it.

    Args:
        policy: how long each wait may take.
        descriptors: the process's file descriptors; None sets no limit to connections.
    """

    def __init__(self, policy: ConnectionPolicy, descriptors: Descriptors | None = None) -> None:
        self.policy = policy
        # Seconds for which this process has served, as far as the sweep has run. A process that was stopped for a
        # minute has not listened for a minute: its callers have not been silent for that time.
        self.now = 0.0
        # How many connections there may be; one more is accepted only in place of another.
        self.most = descriptors.connections(descriptors.used) if descriptors is not None else 2**62
        self._descriptors = descriptors
        shortest_s = min(policy.head_timeout_s, policy.body_timeout_s, policy.idle_timeout_s)
        self._interval_s = min(_INTERVAL_S, shortest_s / 4)
        self.numbers = itertools.count()
        self._shed = 0
        self._logged_at = -_LOG_EVERY_S

    async def run(self, connections: Collection[object]) -> None:
        """Check these connections until cancelled."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(self._interval_s)
            now = loop.time()
            self.now += min(now - before, 2 * self._interval_s)
            before = now
            try:
                for connection in _swept(connections):
                    connection.check(self.now, self._interval_s)
                self._keep_reserve(connections)
            except Exception:
                log.exception("connections.not_looked_at")

    def make_room(self, connections: Collection[object], newest: SweptConnection) -> bool:
        """Close connections to make room for the newest one; return False if none can be closed."""
        return self._close_some(connections, 1, newest) > 0

    def _keep_reserve(self, connections: Collection[object]) -> None:
        """Count the descriptors that are used otherwise, and close connections if too few are left."""
        have = self._descriptors
        if have is not None and (used := count_open(have.limit)) is not None:
            self.most = have.connections(used - len(connections))
            if len(connections) > self.most:
                self._close_some(connections, len(connections) - self.most)
        if self._shed and self.now - self._logged_at >= _LOG_EVERY_S:
            log.warning(
                "connections.shed",
                closed=self._shed,
                left=len(connections),
                hint="callers hold more connections than the limit of file descriptors allows (ulimit -n)",
            )
            self._shed, self._logged_at = 0, self.now

    def _close_some(self, connections: Collection[object], count: int, newest: SweptConnection | None = None) -> int:
        """Close the connections that matter least, a few more than asked for.

        The search visits all connections, so it must not run for each new one. An idle connection whose next request
        has come stays: it is busy, and has not been read yet.
        """
        spare = [
            (*found, connection.number, connection)
            for connection in _swept(connections)
            if connection is not newest and (found := connection.spare(self.now)) is not None
        ]
        if newest is None:
            spare = [each for each in spare if each[0] is not Spare.YOUNG]
        wanted = count + len(spare) // 64
        closed = 0
        heapq.heapify(spare)
        while spare and closed < wanted:
            why, _, _, connection = heapq.heappop(spare)
            if why is Spare.IDLE and connection.has_unread():
                continue
            connection.shed()
            closed += 1
        self._shed += closed
        return closed


def _swept(connections: Collection[object]) -> list[SweptConnection]:
    """Return those that are not WebSockets, whose pings keep them alive and end them."""
    return [connection for connection in connections if isinstance(connection, SweptConnection)]
