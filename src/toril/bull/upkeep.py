"""What BullMQ's Queue and Job offer beside the daily work: counts per priority, deduplication keys, trimming events and
logs, orphans, and taking a flow apart.

BullMQ's scripts and keys, as Node uses them. Called by `toril.gateway`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.bull.keys import QueueKeys
from toril.bull.orphans import Orphans
from toril.bull.scripts import Scripts
from toril.core.errors import JobNotFound

_TRIM_COUNT = 5000


class Upkeep:
    """Does the rest of what BullMQ's Queue and Job do."""

    def __init__(self, scripts: Scripts, prefix: str) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._orphans = Orphans(scripts, prefix)

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._prefix, queue)

    async def _call(self, keys: QueueKeys, *command: str | bytes | int) -> Any:
        return await self._scripts.links.of(keys.prefix).call(*command)

    async def counts_per_priority(self, queue: str, priorities: Sequence[int]) -> list[int]:
        """How many jobs wait with each of these priorities; 0 is none."""
        keys = self._keys(queue)
        script = self._scripts.get_counts_per_priority
        found: list[int] = await self._scripts.call(script, keys, keys.keys("wait", "prioritized"), *priorities)
        return found

    async def deduplicated(self, queue: str, key: str) -> bytes | None:
        """The id of the job that holds a deduplication key."""
        keys = self._keys(queue)
        found: bytes | None = await self._call(keys, "GET", keys.key(f"de:{key}"))
        return found

    async def forget_deduplication(self, queue: str, key: str) -> bool:
        """Remove a deduplication key: a job with it is added again. False where there is none."""
        keys = self._keys(queue)
        return bool(await self._call(keys, "DEL", keys.key(f"de:{key}")))

    async def trim_events(self, queue: str, most: int) -> int:
        """Keep so many of the newest events; how many are gone. In steps, the last of which is exact."""
        keys = self._keys(queue)
        events = keys.key("events")
        gone = 0
        while step := int(await self._call(keys, "XTRIM", events, "MAXLEN", "~", most, "LIMIT", _TRIM_COUNT)):
            gone += step
        return gone + int(await self._call(keys, "XTRIM", events, "MAXLEN", most))

    async def remove_orphans(self, queue: str, most: int | None) -> int:
        """Remove jobs that are in no state, about `most`; how many those were."""
        return await self._orphans.remove(queue, most)

    async def restore_orphans(self, queue: str, most: int | None) -> int:
        """Let jobs wait again that are in no state and have not ended, about `most`; how many those were."""
        return await self._orphans.restore(queue, most)

    async def clear_logs(self, queue: str, job_id: str, keep: int) -> None:
        """Remove a job's log lines but the newest `keep`; raises `JobNotFound`."""
        keys = self._keys(queue)
        await self._known(keys, job_id)
        logs = keys.key(f"{job_id}:logs")
        await (self._call(keys, "LTRIM", logs, -keep, -1) if keep else self._call(keys, "DEL", logs))

    async def remove_children(self, queue: str, job_id: str) -> None:
        """Remove the children of a job that nobody has begun with; raises `JobNotFound`."""
        keys = self._keys(queue)
        await self._known(keys, job_id)
        script = self._scripts.remove_unprocessed_children
        await self._scripts.call(script, keys, keys.keys(job_id, "meta"), keys.prefix, job_id)

    async def detach(self, queue: str, job_id: str) -> bool:
        """Let a job's parent wait for it no longer; False where none does. Raises `JobNotFound`."""
        keys = self._keys(queue)
        await self._known(keys, job_id)
        parent = await self._call(keys, "HGET", keys.key(job_id), "parentKey")
        if parent is None:
            return False
        script = self._scripts.remove_child_dependency
        reply = await self._scripts.call(script, keys, (keys.prefix,), keys.key(job_id), parent)
        return bool(reply == 0)

    async def _known(self, keys: QueueKeys, job_id: str) -> None:
        if not await self._call(keys, "EXISTS", keys.key(job_id)):
            raise JobNotFound
