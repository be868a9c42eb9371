"""Connections to one origin that are kept for a while for the next request. What the HTTP clients' pools are made of.

A kept connection is used again only while nothing speaks against it: it is not old, has not been idle for long, and the
other side has neither closed it nor said anything on it. A request that is written to a connection which is closed in
that moment may have been heard, so it is lost (`docs/decisions/0002`): hence the care. A server that closes at once
after the first answer on a connection, without saying so in it, has none of its connections kept for a while: over such
connections one request in a hundred is written before the end of the connection can be seen.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Iterable
from typing import Generic, TypeVar, cast

from toril.core.headers import Header

IDLE_S = 4.0
"""How long an unused connection is kept: less than the five seconds after which most servers close theirs."""
OLDEST_S = 60.0
"""How long a connection is used: a name that leads elsewhere by then is followed although traffic never stops."""

_AT_ONCE_S = 0.25
_UNKEPT_S = 10.0

_KEEP_ALIVE = b"keep-alive"
_TIMEOUT = re.compile(rb"(?:^|[,;\s])timeout\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


class KeptConnection(asyncio.Protocol):
    """A connection that may carry one exchange after the other."""

    __slots__ = ("_poll", "_transport", "exchanges", "idle_since", "made_at", "usable_until")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._transport: asyncio.Transport | None = None
        self._poll: select.poll | None = None
        self.made_at = loop.time()
        self.exchanges = 0
        self.idle_since = 0.0
        self.usable_until = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    @property
    def is_open(self) -> bool:
        """Whether another exchange can be tried."""
        return self._transport is not None and not self._transport.is_closing()

    def is_silent(self) -> bool:
        """Whether nothing has come while it was idle, not even its end: also where the event loop has not seen it."""
        transport, poll = self._transport, self._poll
        if transport is None or transport.is_closing():
            return False
        if poll is None:
            poll = self._poll = select.poll()
            poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)  # 0.4 µs

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


Connection = TypeVar("Connection", bound=KeptConnection)


class IdleConnections(Generic[Connection]):
    """What the pools have in common: as many connections as there are requests under way, the idle ones waiting."""

    __slots__ = ("_closed", "_idle", "_kept_from", "_loop", "_sweep")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        # Before this, none is kept.
        self._kept_from = 0.0

    def close(self) -> None:
        """Let idle connections go; those in use end with their request."""
        self._closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def give_back(self, connection: Connection, headers: Iterable[Header]) -> None:
        """Keep a connection whose exchange is over and that may carry another one; `headers` are the answer's."""
        now = self._loop.time()
        connection.exchanges += 1
        connection.idle_since = now
        connection.usable_until = until = min(now + idle_s(headers), connection.made_at + OLDEST_S)
        if self._closed or until <= now or now < self._kept_from:
            connection.abort()
            return
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_S, self._close_idle)

    def _take(self) -> Connection | None:
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable_until > now:
                if connection.is_silent():
                    return connection
                if connection.exchanges == 1 and now - connection.idle_since < _AT_ONCE_S:
                    self._kept_from = now + _UNKEPT_S
            connection.abort()
        return None

    def _close_idle(self) -> None:
        now = self._loop.time()
        kept = []
        for connection in self._idle:
            if connection.usable_until > now:
                kept.append(connection)
            else:
                connection.abort()
        self._idle = kept
        self._sweep = None
        if kept:
            # Not for each one anew: what is past its time is not used anyhow.
            next_in_s = min(connection.usable_until for connection in kept) - now
            self._sweep = self._loop.call_later(max(next_in_s, IDLE_S / 8), self._close_idle)


def idle_s(headers: Iterable[Header]) -> float:
    """Return how long a connection may be idle after an answer with these headers.

    A server that says `Keep-Alive: timeout=N` closes after N seconds; a request must not be on its way then.
    """
    for name, value in headers:
        if len(name) == 10 and name.lower() == _KEEP_ALIVE:
            found = _TIMEOUT.search(value)
            if found is not None:
                seconds = int(found[1])
                return min(IDLE_S, max(seconds - 1.0, seconds / 2))
    return IDLE_S
