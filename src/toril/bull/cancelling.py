"""Cancels jobs in any state, and tells every instance, so that whoever works on one breaks it off.

A job that is being worked on has a lock, and BullMQ's own script removes no locked job. So lock and job go in one
transaction; whoever had the lock finds that out before writing anything, as with any lost lease. The announcement
saves it the time until it renews the lock, and frees its slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from toril.bull.keys import QueueKeys
from toril.bull.links import FollowingLink, KeyPlace, Links
from toril.bull.scripts import Scripts, refused
from toril.bull.wire import ReplyError, pack
from toril.core.errors import StoreError
from toril.core.policy import StorePolicy

log = structlog.get_logger(__name__)

STREAM = "toril:cancelled"
_MAX_LEN = 1000
_BLOCK_MS = 5000
_AGAIN_S = 0.25

BreakOff = Callable[[str, bytes], None]
"""Told a queue and a job's id: whoever works on that job here lets go of it, and writes nothing."""


class Cancelling:
    """Cancels, and follows what others cancel once `run` is running.

    Args:
        links: the shared connections.
        scripts: BullMQ's.
        policy: prefix, timeouts.
        break_off: called for every cancelled job, wherever it was cancelled.
    """

    def __init__(self, links: Links, scripts: Scripts, policy: StorePolicy, break_off: BreakOff) -> None:
        self._links = links
        self._scripts = scripts
        self._prefix = policy.queue_prefix
        self._stream = f"{policy.queue_prefix}:{STREAM}".encode()
        self._break_off = break_off
        place = KeyPlace(links, self._stream)
        self._following = FollowingLink(place, policy, name="toril:cancelled", patience_s=_BLOCK_MS / 1000 + 5)

    async def cancel(self, queue: str, job_id: str) -> bool:
        """Remove a job whatever state it is in; False where there is none."""
        keys = QueueKeys(self._prefix, queue)
        script, key = self._scripts.remove_job, keys.key(job_id)
        commands = [
            pack("EXISTS", key),
            pack("DEL", key + b":lock"),
            pack("SREM", keys.key("stalled"), job_id),
            script.packed(keys.keys(job_id, "repeat"), job_id, "0", keys.prefix),
        ]
        self._scripts.touched.add(keys.prefix)
        link = self._links.of(keys.prefix)
        existed, _, _, removed = await link.transaction(commands)
        if isinstance(removed, ReplyError) and removed.message.startswith("NOSCRIPT"):
            # Redis has forgotten it, and only it: what ran before it can run again.
            await link.call("SCRIPT", "LOAD", script.text)
            existed, _, _, removed = await link.transaction(commands)
        if isinstance(removed, StoreError):
            raise removed
        if not existed:
            return False
        if removed != 1:
            raise refused(-3, job_id.encode())
        await self._announce(queue, job_id)
        return True

    async def _announce(self, queue: str, job_id: str) -> None:
        self._break_off(queue, job_id.encode())
        try:
            await self._links.of(self._stream).call(
                "XADD", self._stream, "MAXLEN", "~", _MAX_LEN, "*", "queue", queue, "job", job_id
            )
        except StoreError as exc:  # the job is gone all the same; whoever works on it finds out with its next renewal
            log.warning("cancel.not_announced", queue=queue, job_id=job_id, error=exc.message)

    async def run(self) -> None:
        """Follow the announcements until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._following.run(), name="cancelled:link")
            tasks.create_task(self._follow(), name="cancelled:follow")

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
                    told = dict(zip(flat[::2], flat[1::2], strict=True))
                    self._break_off(told[b"queue"].decode(), told[b"job"])
            except StoreError as exc:
                log.debug("cancelled.follow_failed", error=exc.message)
                await asyncio.sleep(_AGAIN_S)

    async def _newest(self) -> bytes:
        newest = await self._following.call("XREVRANGE", self._stream, "+", "-", "COUNT", 1)
        entry: bytes = newest[0][0] if newest else b"0-0"
        return entry
