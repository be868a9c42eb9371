"""An index of queue names in Redis: BullMQ keeps none, and scanning all keys for them takes long.

Queues that toril creates are added at once. Those that other programs create are found by scanning all keys, a
thousand at a time, which one instance of the fleet does again and again. The index may hold names of queues that were
removed, so its readers have to check that a queue exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import structlog

from toril.bullmq.keys import QueueKeys
from toril.core.errors import StoreError, StoreUnavailable
from toril.redis.links import Links
from toril.redis.resp import pack

log = structlog.get_logger(__name__)

# A thousand key names take Redis about 1.3 ms: ten times a second is 1.3 % of its time.
_SCAN_COUNT = 1000
_STEP_S = 0.1
# The first time, someone may be waiting for the names: a fifth of Redis' time.
_FIRST_STEP_S = 0.005
_PATIENCE_S = 0.25
_PAUSE_MS = 5000
# An instance that has not renewed its turn for this long is taken for dead.
_TURN_MS = 5000
_LOOK_S = 1.0
_PAGE = 1000
# A member of the set once all keys have been scanned. It sorts before all names, and no queue has this name.
_WHOLE = b""


class QueueNameIndex:
    """A sorted set of queue names, `toril:queues:{prefix}`, and a key for the instance that scans."""

    def __init__(self, links: Links, prefix: str) -> None:
        self._links = links
        self._prefix = prefix
        self._key = f"toril:queues:{prefix}".encode()
        self._turn = f"toril:queues-turn:{prefix}".encode()
        self._first = asyncio.Lock()

    def note(self, queue: str) -> None:
        """Add a queue that may be new, without waiting for the reply: a name that is lost is found by the next scan."""
        try:
            self._links.of(self._key).leave(pack("ZADD", self._key, 0, queue))
        except StoreUnavailable as exc:
            log.debug("queues.not_noted", queue=queue, error=exc.message)

    async def page(self, after: str, most: int) -> list[str]:
        """Return the names after this one, in order, at most `most`; fewer if there are no more.

        If no instance has scanned all keys yet, this call does, for a moment. Of millions of keys that is a part: it
        returns the names that are known so far, and `run` finds the others.
        """
        start = b"(" + after.encode()
        commands = [
            pack("ZSCORE", self._key, _WHOLE),
            pack("ZRANGEBYLEX", self._key, start, "+", "LIMIT", 0, most),
        ]
        whole, found = await self._links.of(self._key).pipeline(commands)
        if whole is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S), self._first:
                    if await self._call("ZSCORE", self._key, _WHOLE) is None:
                        await self._read_all(0)
            _, found = await self._links.of(self._key).pipeline(commands)
        return [name.decode() for name in found]

    async def run(self) -> None:
        """Keep the index up to date, in turn with the other instances, until cancelled."""
        while True:
            try:
                if await self._call("SET", self._turn, "1", "NX", "PX", _TURN_MS):
                    whole = await self._call("ZSCORE", self._key, _WHOLE) is not None
                    await self._read_all(_STEP_S if whole else _FIRST_STEP_S)
                    await self._call("SET", self._turn, "1", "PX", _PAUSE_MS)
            except StoreError as exc:
                log.debug("queues.not_read", error=exc.message)
            await asyncio.sleep(_LOOK_S)

    async def _read_all(self, step_s: float) -> None:
        """Scan all keys, with a pause between steps; add the queues that exist and remove the others."""
        known = await self._known()
        seen: set[bytes] = set()
        for link in self._links.all():
            cursor = b"0"
            while True:
                cursor, keys = await link.call("SCAN", cursor, "MATCH", self._pattern(), "COUNT", _SCAN_COUNT)
                found = {name for key in keys if (name := self._name(key)) is not None}
                new = found - known - seen
                seen |= found
                if new:
                    await self._add(new)
                if cursor == b"0":
                    break
                await asyncio.sleep(step_s)
                if step_s:
                    await self._call("PEXPIRE", self._turn, _TURN_MS)
        await self._forget(known - seen)
        await self._add([_WHOLE])

    async def _known(self) -> set[bytes]:
        """Return all names of the index."""
        known: set[bytes] = set()
        start = b"(" + _WHOLE
        while True:
            names = await self._call("ZRANGEBYLEX", self._key, start, "+", "LIMIT", 0, _PAGE)
            known.update(names)
            if len(names) < _PAGE:
                return known
            start = b"(" + names[-1]

    def _pattern(self) -> str:
        escaped = "".join(f"\\{sign}" if sign in "*?[]^\\" else sign for sign in self._prefix)
        return f"{escaped}:*:meta"

    def _name(self, key: bytes) -> bytes | None:
        name = key[len(self._prefix.encode()) + 1 : -len(":meta")]
        try:
            name.decode()
        except UnicodeDecodeError:  # no path can name it
            return None
        # `bull:orders:repeat:meta` is the scheduler `meta` of the queue `orders`.
        return None if b":" in name or not name else name

    async def _add(self, names: Collection[bytes]) -> None:
        await self._call("ZADD", self._key, *(part for name in names for part in (0, name)))

    async def _forget(self, unseen: set[bytes]) -> None:
        """Remove those of these names that have no queue."""
        for name in unseen:
            if not await self._exists(name):
                await self._call("ZREM", self._key, name)
                # If the queue was created in between, its name was added before it was removed here.
                if await self._exists(name):
                    await self._add([name])

    async def _exists(self, name: bytes) -> bool:
        keys = QueueKeys(self._prefix, name.decode())
        return bool(await self._links.of(keys.prefix).call("EXISTS", keys.key("meta")))

    async def _call(self, *command: str | bytes | int) -> Any:
        return await self._links.of(self._key).call(*command)
