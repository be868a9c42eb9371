"""Announces to all instances what they have to act on at once: a cancelled job, or a rate limit that was removed.

One stream, `{prefix}:toril:cancelled`. An entry has the fields `queue` and `job`; where a limit is lifted, `job` is
empty and the field `limit` is `lifted`. An instance of an earlier version takes that for a job that it does not have.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from toril.core.errors import StoreError
from toril.redis.links import FollowingLink, KeyPlace, Links
from toril.redis.policy import StorePolicy
from toril.redis.stored_entries import readable

log = structlog.get_logger(__name__)

STREAM = "toril:cancelled"
_MAX_LEN = 1000
_BLOCK_MS = 5000
_AGAIN_S = 0.25


class Hearing(Protocol):
    """What an instance does on an announcement, also one that it has made itself."""

    def cancelled(self, queue: str, job_id: bytes) -> None:
        """Stop work on this job, if a consumer of this instance works on it, and write nothing."""
        ...

    def limit_lifted(self, queue: str) -> None:
        """Look for jobs of this queue again, if a consumer or request of this instance waits for its rate limit."""
        ...


class Announcements:
    """Makes announcements, and follows those of other instances while `run` is running.

    Args:
        links: the shared connections.
        policy: prefix, timeouts.
        hearing: receives every announcement, of this or another instance.
    """

    def __init__(self, links: Links, policy: StorePolicy, hearing: Hearing) -> None:
        self._links = links
        self._stream = f"{policy.queue_prefix}:{STREAM}".encode()
        self._hearing = hearing
        place = KeyPlace(links, self._stream)
        self._following = FollowingLink(place, policy, name="toril:cancelled", patience_s=_BLOCK_MS / 1000 + 5)

    async def cancelled(self, queue: str, job_id: str) -> None:
        """Announce that a job was cancelled. Never raises: its worker also finds out when it renews the lock."""
        self._hearing.cancelled(queue, job_id.encode())
        await self._announce("queue", queue, "job", job_id)

    async def limit_lifted(self, queue: str) -> None:
        """Announce that a rate limit or hold of a queue was removed. Never raises: consumers also ask by themselves."""
        self._hearing.limit_lifted(queue)
        await self._announce("queue", queue, "job", "", "limit", "lifted")

    async def _announce(self, *fields: str) -> None:
        try:
            await self._links.of(self._stream).call("XADD", self._stream, "MAXLEN", "~", _MAX_LEN, "*", *fields)
        except StoreError as exc:
            log.warning(
                "announcement.failed", about=dict(zip(fields[::2], fields[1::2], strict=True)), error=exc.message
            )

    async def run(self) -> None:
        """Follow the announcements until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._following.run(), name="announcements:link")
            tasks.create_task(self._follow(), name="announcements:follow")

    async def _follow(self) -> None:
        position: bytes | None = None
        while True:
            try:
                await self._following.up(60)
                if position is None:
                    position = await self._newest()
                reply = await self._following.call(
                    "XREAD", "COUNT", 500, "BLOCK", _BLOCK_MS, "STREAMS", self._stream, position
                )
                for entry, flat in reply[0][1] if reply else ():
                    position = entry
                    self._heard(dict(zip(flat[::2], flat[1::2], strict=True)))
            except StoreError as exc:
                log.debug("announcements.follow_failed", error=exc.message)
                await asyncio.sleep(_AGAIN_S)

    def _heard(self, told: dict[bytes, bytes]) -> None:
        # An entry without a queue is as unreadable as one whose queue is no text.
        for queue in readable(self._stream.decode(), [told.get(b"queue", b"\xff")], bytes.decode):
            if b"limit" in told:
                self._hearing.limit_lifted(queue)
            elif b"job" in told:
                self._hearing.cancelled(queue, told[b"job"])

    async def _newest(self) -> bytes:
        newest = await self._following.call("XREVRANGE", self._stream, "+", "-", "COUNT", 1)
        entry: bytes = newest[0][0] if newest else b"0-0"
        return entry
