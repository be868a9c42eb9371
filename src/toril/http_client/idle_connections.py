"""Connections to one origin that are kept for a while for the next request.

A kept connection is used again only if it is not old, has not been idle for long, and the other side has neither closed
it nor sent anything on it. A request that is written to a connection which is closed in
that moment may have been heard, so it is lost (`docs/decisions/0002`): hence the care. A server that closes at once
after the first answer on a connection, without saying so in it, has none of its connections kept for a while: over such
connections one request in a hundred is written before the end of the connection can be seen.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

from toril.core.http.headers import Header
from toril.http_client.connection import HttpConnection

IDLE_S = 4.0
"""How long an unused connection is kept: less than the five seconds after which most servers close theirs."""
OLDEST_S = 60.0
"""How long a connection is used. After that its name is looked up again, so traffic follows a name that has moved."""

_AT_ONCE_S = 0.25
_UNKEPT_S = 10.0

_KEEP_ALIVE = b"keep-alive"
_TIMEOUT = re.compile(rb"(?:^|[,;\s])timeout\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


class IdleConnections:
    """The idle connections to one origin, in any number."""

    __slots__ = ("_closed", "_idle", "_kept_from", "_loop", "_sweep")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle: list[HttpConnection] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        # Before this, none is kept.
        self._kept_from = 0.0

    def close(self) -> None:
        """Close all idle connections, and from now on each one that is given back."""
        self._closed = True
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def give_back(self, connection: HttpConnection) -> None:
        """End an exchange. Keep its connection if it can be used again; close it otherwise."""
        if not connection.release():
            connection.abort()
            return
        now = self._loop.time()
        connection.exchanges += 1
        connection.idle_since = now
        if not connection.is_open:
            self._closed_while_idle(connection, now)
            return
        until = min(now + idle_s(connection.reader.headers), connection.made_at + OLDEST_S)
        connection.usable_until = until
        if self._closed or until <= now or now < self._kept_from:
            connection.abort()
            return
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_S, self._close_old)

    def take(self) -> HttpConnection | None:
        """Return the connection that was used last and may be used now; None if there is none."""
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable_until > now:
                if connection.is_silent():
                    return connection
                self._closed_while_idle(connection, now)
            connection.abort()
        return None

    def _closed_while_idle(self, connection: HttpConnection, now: float) -> None:
        """Keep no connection for a while if the server closed this one at once."""
        if connection.exchanges == 1 and now - connection.idle_since < _AT_ONCE_S:
            self._kept_from = now + _UNKEPT_S

    def _close_old(self) -> None:
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
            # Not a timer for each one: none is used past its time.
            next_in_s = min(connection.usable_until for connection in kept) - now
            self._sweep = self._loop.call_later(max(next_in_s, IDLE_S / 8), self._close_old)


def idle_s(headers: Iterable[Header]) -> float:
    """Return how long a connection may be idle after an answer with these headers.

    A server that sends `Keep-Alive: timeout=N` closes after N seconds; no request may be on its way then.
    """
    for name, value in headers:
        if len(name) == 10 and name.lower() == _KEEP_ALIVE:
            found = _TIMEOUT.search(value)
            if found is not None:
                seconds = int(found[1])
                return min(IDLE_S, max(seconds - 1.0, seconds / 2))
    return IDLE_S
