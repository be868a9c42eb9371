"""The workers on sockets of the whole fleet: each process writes its own into Redis every few seconds.

A process without such workers writes nothing. What a process has written goes when it does not write it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from toril.core.errors import StoreError
from toril.core.ports import Now
from toril.core.times import moment_text
from toril.redis.links import Links
from toril.redis.stored_entries import readable

log = structlog.get_logger(__name__)

EVERY_S = 5.0
_LIFE_MS = 15_000
_MOST = 500
"""How many workers of a process are written; of the others only how many there are."""
MOST_JOBS = 20
"""How many of the jobs that a worker has are named."""


class ConnectedSocket(Struct, frozen=True):
    """A worker on a socket: since when (RFC 3339), with whose token, and the oldest of the `holding` jobs it has."""

    queue: str
    instance: str
    token: str
    address: str
    since: str
    concurrency: int
    holding: int
    jobs: list[str]


class _Written(Struct, frozen=True):
    sockets: list[ConnectedSocket]
    left_out: int = 0


class _Open(Struct, eq=False):
    queue: str
    token: str
    address: str
    since: str
    concurrency: int
    jobs: Callable[[], Sequence[str]]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Written).decode


class OpenWorkers:
    """Knows the workers on sockets here, and reads those of all processes.

    Keys: `toril:sockets:{prefix}`, a sorted set of instances by when they wrote (milliseconds), and
    `toril:sockets:{prefix}:{instance}`, what each has written.
    """

    def __init__(self, links: Links, prefix: str, instance_id: str, now: Now) -> None:
        self._links = links
        self._index = f"toril:sockets:{prefix}"
        self._instance = instance_id
        self._now = now
        self._open: set[_Open] = set()
        self._opened = asyncio.Event()
        self._is_written = False

    @contextmanager
    def including(
        self, queue: str, token: str, address: str, concurrency: int, jobs: Callable[[], Sequence[str]]
    ) -> Iterator[None]:
        """Count a worker among them for the length of a block; `jobs` returns what it has, the oldest first."""
        one = _Open(queue, token, address, moment_text(self._now()), concurrency, jobs)
        self._open.add(one)
        self._opened.set()
        try:
            yield
        finally:
            self._open.discard(one)

    async def run(self) -> None:
        """Write until cancelled. What Redis does not take is written the next time."""
        while True:
            if not self._open and not self._is_written:
                self._opened.clear()
                await self._opened.wait()
            try:
                await self.write()
            except StoreError as exc:
                log.debug("sockets.not_written", error=exc.message)
            await asyncio.sleep(EVERY_S)

    async def write(self) -> None:
        """Write the workers that are here now.

        Raises:
            StoreError: Redis did not take it.
        """
        key = f"{self._index}:{self._instance}"
        if not self._open:
            await self._call("ZREM", self._index, self._instance)
            await self._call("DEL", key)
            self._is_written = False
            return
        self._is_written = True
        written = _Written([self._shown(one) for one in islice(self._open, _MOST)], max(0, len(self._open) - _MOST))
        await self._call("SET", key, _encode(written), "PX", _LIFE_MS)
        await self._call("ZADD", self._index, int(self._now() * 1000), self._instance)

    async def all(self) -> tuple[list[ConnectedSocket], int]:
        """Return the workers of all processes, and how many more there are.

        Raises:
            StoreError: Redis did not answer.
        """
        if self._open or self._is_written:
            await self.write()  # what is here is told as it is now
        await self._call("ZREMRANGEBYSCORE", self._index, "-inf", int(self._now() * 1000) - _LIFE_MS)
        found: list[ConnectedSocket] = []
        left_out = 0
        for instance in await self._call("ZRANGE", self._index, 0, -1):
            key = f"{self._index}:{instance.decode(errors='replace')}"
            text = await self._call("GET", key)
            for written in readable(key, () if text is None else (text,), _decode):
                found += written.sockets
                left_out += written.left_out
        return sorted(found, key=lambda one: (one.queue, one.since)), left_out

    def _shown(self, one: _Open) -> ConnectedSocket:
        jobs = one.jobs()
        return ConnectedSocket(
            one.queue,
            self._instance,
            one.token,
            one.address,
            one.since,
            one.concurrency,
            len(jobs),
            list(jobs[:MOST_JOBS]),
        )

    async def _call(self, command: str, key: str, *arguments: str | bytes | int) -> Any:
        return await self._links.of(key.encode()).call(command, key, *arguments)
