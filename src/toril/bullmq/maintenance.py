"""Maintenance of queues and jobs: counts per priority, deduplication keys, events, logs, orphans, dependencies.

BullMQ's scripts and keys are used as Node uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.orphans import OrphanedJobs
from toril.bullmq.lua.scripts import Scripts
from toril.core.errors import JobNotFound

_TRIM_COUNT = 5000


class Maintenance:
    """BullMQ's `Queue` and `Job` methods for maintenance."""

    def __init__(self, scripts: Scripts, prefix: str) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._orphans = OrphanedJobs(scripts, prefix)

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._prefix, queue)

    async def _call(self, keys: QueueKeys, *command: str | bytes | int) -> Any:
        return await self._scripts.links.of(keys.prefix).call(*command)

    async def counts_per_priority(self, queue: str, priorities: Sequence[int]) -> list[int]:
        """Return how many jobs wait with each of these priorities; priority 0 means none."""
        keys = self._keys(queue)
        script = self._scripts.get_counts_per_priority
        found: list[int] = await self._scripts.call(script, keys, *priorities)
        return found

    async def deduplicated(self, queue: str, key: str) -> bytes | None:
        """Return the id of the job that holds a deduplication key; None if no job does."""
        keys = self._keys(queue)
        found: bytes | None = await self._call(keys, "GET", keys.key(f"de:{key}"))
        return found

    async def forget_deduplication(self, queue: str, key: str) -> bool:
        """Remove a deduplication key, so that jobs with it are added again; return False if there is none."""
        keys = self._keys(queue)
        return bool(await self._call(keys, "DEL", keys.key(f"de:{key}")))

    async def trim_events(self, queue: str, most: int) -> int:
        """Keep the newest `most` events; return how many were removed. Works in steps, the last of which is exact."""
        keys = self._keys(queue)
        events = keys.key("events")
        gone = 0
        while step := int(await self._call(keys, "XTRIM", events, "MAXLEN", "~", most, "LIMIT", _TRIM_COUNT)):
            gone += step
        return gone + int(await self._call(keys, "XTRIM", events, "MAXLEN", most))

    async def remove_orphans(self, queue: str, most: int | None) -> int:
        """Remove about `most` jobs that are in no state; return how many."""
        return await self._orphans.remove(queue, most)

    async def restore_orphans(self, queue: str, most: int | None) -> int:
        """Put about `most` jobs that are in no state and have not ended back to waiting; return how many."""
        return await self._orphans.restore(queue, most)

    async def clear_logs(self, queue: str, job_id: str, keep: int) -> None:
        """Remove all log lines of a job but the newest `keep`. Raises `JobNotFound`."""
        keys = self._keys(queue)
        await self._known(keys, job_id)
        logs = keys.key(f"{job_id}:logs")
        await (self._call(keys, "LTRIM", logs, -keep, -1) if keep else self._call(keys, "DEL", logs))

    async def remove_children(self, queue: str, job_id: str) -> None:
        """Remove those children of a job that have not been processed yet. Raises `JobNotFound`."""
        keys = self._keys(queue)
        await self._known(keys, job_id)
        script = self._scripts.remove_unprocessed_children
        await self._scripts.call(script, keys, keys.prefix, job_id, job=job_id)

    async def detach(self, queue: str, job_id: str) -> bool:
        """Remove a job from its parent's dependencies; return False if no parent waits for it. Raises `JobNotFound`."""
        keys = self._keys(queue)
        await self._known(keys, job_id)
        parent = await self._call(keys, "HGET", keys.key(job_id), "parentKey")
        if parent is None:
            return False
        script = self._scripts.remove_child_dependency
        reply = await self._scripts.call(script, keys, keys.key(job_id), parent)
        return bool(reply == 0)

    async def _known(self, keys: QueueKeys, job_id: str) -> None:
        if not await self._call(keys, "EXISTS", keys.key(job_id)):
            raise JobNotFound
