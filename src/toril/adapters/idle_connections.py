"""Connections to one origin that nobody uses now, kept for a while for the next request. The HTTP clients' pools."""

from __future__ import annotations

import asyncio
from typing import Generic, Protocol, TypeVar

IDLE_S = 4.0
"""How long an unused connection is kept: less than the five seconds after which most servers close theirs."""


class Reusable(Protocol):
    """A connection that may carry one exchange after the other."""

    idle_since: float

    @property
    def is_open(self) -> bool:
        """Whether another exchange can be tried."""

    def abort(self) -> None:
        """Close at once."""
        ...


Connection = TypeVar("Connection", bound=Reusable)


class IdleConnections(Generic[Connection]):
    """What the pools have in common: as many connections as there are requests under way, the idle ones waiting."""

    __slots__ = ("_closed", "_idle", "_loop", "_sweep")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    def close(self) -> None:
        """Let idle connections go; those in use end with their request."""
        self._closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def give_back(self, connection: Connection) -> None:
        """A connection whose exchange is over and that may carry another one."""
        if self._closed:
            connection.abort()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_S, self._close_idle)

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    def _close_idle(self) -> None:
        # Used last in, first out, so those that have been idle longest stand in front.
        before = self._loop.time() - IDLE_S
        stale = 0
        while stale < len(self._idle) and self._idle[stale].idle_since <= before:
            self._idle[stale].abort()
            stale += 1
        del self._idle[:stale]
        self._sweep = self._loop.call_later(IDLE_S, self._close_idle) if self._idle else None
