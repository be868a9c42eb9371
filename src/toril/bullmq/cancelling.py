"""Cancels jobs in any state, and announces it, so that the instance that works on a job stops.

An active job has a lock, and BullMQ's script removes no locked job. So lock and job are removed in one transaction.
The holder of the lock finds out before it writes anything, as with any lost lease; the announcement frees its slot
without waiting until it renews the lock.
"""

from __future__ import annotations

from toril.bullmq.announcements import Announcements
from toril.bullmq.groups.scripts import LEAVE
from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.scripts import Scripts, refused
from toril.core.errors import StoreError
from toril.redis.resp import pack


class Cancelling:
    """Cancels jobs of any queue.

    Args:
        scripts: BullMQ's scripts.
        prefix: the prefix of BullMQ's keys.
        announcements: announces every cancelled job.
    """

    def __init__(self, scripts: Scripts, prefix: str, announcements: Announcements) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._announcements = announcements

    async def cancel(self, queue: str, job_id: str) -> bool:
        """Remove a job in any state; return False if there is none."""
        keys = QueueKeys(self._prefix, queue)
        script, key = self._scripts.remove_job, keys.key(job_id)
        existed, *_, removed = await self._scripts.transaction(
            keys.prefix,
            [
                (None, pack("EXISTS", key)),
                (None, pack("DEL", key + b":lock")),
                (None, pack("SREM", keys.key("stalled"), job_id)),
                (LEAVE, LEAVE.of(keys, job_id)),
                (script, script.of(keys, job_id, "0", keys.prefix, job=job_id)),
            ],
        )
        if isinstance(removed, StoreError):
            raise removed
        if not existed:
            return False
        if removed != 1:
            raise refused(-3, job_id.encode())
        await self._announcements.cancelled(queue, job_id)
        return True
