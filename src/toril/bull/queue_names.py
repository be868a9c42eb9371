"""The names of all queues, kept in Redis: BullMQ keeps no list of them, and reading every key name takes long.

What toril makes is noted at once. What others make is found by reading all key names, a thousand at a time: one
instance of the fleet does so, again and again. A name may be that of a queue which is gone since, so readers of names
have to look whether the queue is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import structlog

from toril.bull.keys import QueueKeys
from toril.bull.links import Links
from toril.bull.wire import pack
from toril.core.errors import StoreError, StoreUnavailable

log = structlog.get_logger(__name__)

# A thousand key names take Redis about 1.3 ms: ten times a second is 1.3 % of its time.
_SCAN_COUNT = 1000
_STEP_S = 0.1
_PAUSE_MS = 5000
# An instance that reads and does not say so for this long has died.
_TURN_MS = 5000
_LOOK_S = 1.0
_PAGE = 1000
# Stands in the set when all key names have been read once. It comes before all names, and no queue has it.
_WHOLE = b""


class QueueNames:
    """A sorted set of names in their order, `toril:queues:{prefix}`, and a key for the instance whose turn it is."""

    def __init__(self, links: Links, prefix: str) -> None:
        self._links = links
        self._prefix = prefix
        self._key = f"toril:queues:{prefix}".encode()
        self._turn = f"toril:queues-turn:{prefix}".encode()
        self._first = asyncio.Lock()

    def note(self, queue: str) -> None:
        """Remember a queue that may be new. Not waited for: what gets lost is found with the queues of others."""
        try:
            self._links.of(self._key).leave(pack("ZADD", self._key, 0, queue))
        except StoreUnavailable as exc:
            log.debug("queues.not_noted", queue=queue, error=exc.message)

    async def page(self, after: str, most: int) -> list[str]:
        """Return the next names behind this one, in order, `most` at most: fewer where there are no more.

        The first call of all, before any instance has read all key names, reads them.
        """
        start = b"(" + after.encode()
        commands = [
            pack("ZSCORE", self._key, _WHOLE),
            pack("ZRANGEBYLEX", self._key, start, "+", "LIMIT", 0, most),
        ]
        whole, found = await self._links.of(self._key).pipeline(commands)
        if whole is None:
            async with self._first:
                if await self._call("ZSCORE", self._key, _WHOLE) is None:
                    await self._read_all(0)
            _, found = await self._links.of(self._key).pipeline(commands)
        return [name.decode() for name in found]

    async def run(self) -> None:
        """Keep the names up to date, in turn with the other instances, until cancelled."""
        while True:
            try:
                if await self._call("SET", self._turn, "1", "NX", "PX", _TURN_MS):
                    await self._read_all(_STEP_S)
                    await self._call("SET", self._turn, "1", "PX", _PAUSE_MS)
            except StoreError as exc:
                log.debug("queues.not_read", error=exc.message)
            await asyncio.sleep(_LOOK_S)

    async def _read_all(self, step_s: float) -> None:
        """Read all key names, with a pause between two steps; note the queues, and forget those that are gone."""
        seen: set[bytes] = set()
        for link in self._links.all():
            cursor = b"0"
            while True:
                cursor, keys = await link.call("SCAN", cursor, "MATCH", self._pattern(), "COUNT", _SCAN_COUNT)
                found = {name for key in keys if (name := self._name(key)) is not None} - seen
                if found:
                    await self._add(found)
                    seen |= found
                if cursor == b"0":
                    break
                await asyncio.sleep(step_s)
                if step_s:
                    await self._call("PEXPIRE", self._turn, _TURN_MS)
        await self._forget_others(seen)
        await self._add([_WHOLE])

    def _pattern(self) -> str:
        escaped = "".join(f"\\{sign}" if sign in "*?[]^\\" else sign for sign in self._prefix)
        return f"{escaped}:*:meta"

    def _name(self, key: bytes) -> bytes | None:
        name = key[len(self._prefix.encode()) + 1 : -len(":meta")]
        try:
            name.decode()
        except UnicodeDecodeError:  # no path of ours can name it
            return None
        # `bull:orders:repeat:meta` is the scheduler `meta` of the queue `orders`.
        return None if b":" in name or not name else name

    async def _add(self, names: Collection[bytes]) -> None:
        await self._call("ZADD", self._key, *(part for name in names for part in (0, name)))

    async def _forget_others(self, seen: set[bytes]) -> None:
        """Forget the names that are not among these and have no queue."""
        start = b"(" + _WHOLE
        while True:
            names = await self._call("ZRANGEBYLEX", self._key, start, "+", "LIMIT", 0, _PAGE)
            for name in names:
                if name not in seen and not await self._exists(name):
                    await self._call("ZREM", self._key, name)
                    # One that was made in between was noted too early.
                    if await self._exists(name):
                        await self._add([name])
            if len(names) < _PAGE:
                return
            start = b"(" + names[-1]

    async def _exists(self, name: bytes) -> bool:
        keys = QueueKeys(self._prefix, name.decode())
        return bool(await self._links.of(keys.prefix).call("EXISTS", keys.key("meta")))

    async def _call(self, *command: str | bytes | int) -> Any:
        return await self._links.of(self._key).call(*command)
