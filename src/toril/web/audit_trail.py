"""The newest lines of the audit log of the whole fleet, kept in a store to be read over HTTP.

Lines are written once a second and never waited for: while the store is away they are lost, and are only in the log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from toril.core.errors import StoreError
from toril.core.ports import Now
from toril.core.times import moment_text
from toril.redis.links import Links
from toril.redis.resp import pack
from toril.redis.stored_entries import readable
from toril.web.shapes import AuditLine

log = structlog.get_logger(__name__)

KEPT = 1000
_FLUSH_S = 1.0
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AuditLine).decode


class LineStore(Protocol):
    """Keeps the newest lines of the fleet. Both methods raise `StoreError` where the store is not there."""

    async def keep(self, lines: Sequence[bytes]) -> None:
        """Keep more lines, the oldest first, and forget those beyond the newest `KEPT`."""
        ...

    async def newest(self) -> list[AuditLine]:
        """Return the kept lines, about in the order in which they were kept, the newest first."""
        ...


class RedisLines:
    """A `LineStore` in one list in Redis, `toril:audit:{prefix}`."""

    def __init__(self, links: Links, prefix: str) -> None:
        self._links = links
        self._key = f"toril:audit:{prefix}".encode()

    async def keep(self, lines: Sequence[bytes]) -> None:
        """As `LineStore.keep`."""
        keeping = [pack("LPUSH", self._key, *lines), pack("LTRIM", self._key, 0, KEPT - 1)]
        await self._links.of(self._key).pipeline(keeping)

    async def newest(self) -> list[AuditLine]:
        """As `LineStore.newest`."""
        return read_lines(self._key.decode(), await self._links.of(self._key).call("LRANGE", self._key, 0, KEPT - 1))


def read_lines(place: str, stored: Sequence[bytes]) -> list[AuditLine]:
    """Return the lines that can be read; the log says how many of this place cannot."""
    return readable(place, stored, _decode)


class AuditTrail:
    """The newest `KEPT` lines; run `run()` to have lines written."""

    def __init__(self, store: LineStore, now: Now) -> None:
        self._store = store
        self._now = now
        self._new: deque[bytes] = deque(maxlen=KEPT)
        self._is_lossy = False

    def note(self, line: Mapping[str, Any]) -> None:
        """Keep a line with its time. Other instances see it within two seconds."""
        self._new.append(_encode(AuditLine(at=moment_text(self._now()), **line)))

    async def lines(self) -> list[AuditLine]:
        """Return the kept lines, the newest first; without those that cannot be read, of which the log tells.

        Raises:
            StoreError: the store is not there.
        """
        await self._flush()
        # Instances write each second: lines of the same second stand in any order.
        return sorted(await self._store.newest(), key=lambda line: line.at, reverse=True)

    async def run(self) -> None:
        """Write new lines once a second, until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            try:
                await self._flush()
            except StoreError as exc:
                if not self._is_lossy:
                    log.warning("audit.not_kept", error=exc.message, hint="these lines are only in the log")
                self._is_lossy = True
            else:
                self._is_lossy = False

    async def _flush(self) -> None:
        if not self._new:
            return
        lines, self._new = list(self._new), deque(maxlen=KEPT)
        await self._store.keep(lines)
