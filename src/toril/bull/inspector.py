"""Reads queues and jobs, and writes what workers report of them. Called by `toril.gateway`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toril.bull.connection import Link
from toril.bull.keys import QueueKeys
from toril.bull.scripts import Scripts
from toril.bull.wire import pack
from toril.core.stored_job import Fields, read_options

_COUNTED_AS = {"waiting": ("waiting", "paused")}
_STORED_AS = {"waiting": "wait"}
_LISTS = frozenset({"waiting", "paused", "active"})
# As many times as BullMQ's own getJobs goes on looking where jobs vanish under it.
_BACKFILL = 5


class Inspector:
    """Answers what the gateway asks about jobs."""

    def __init__(self, scripts: Scripts, prefix: str) -> None:
        self._scripts = scripts
        self._prefix = prefix

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._prefix, queue)

    def _link(self, keys: QueueKeys) -> Link:
        return self._scripts.links.of(keys.prefix)

    async def get(self, queue: str, job_id: str) -> Fields | None:
        """The job's hash, or None."""
        keys = self._keys(queue)
        flat = await self._link(keys).call("HGETALL", keys.key(job_id))
        return fields_of(flat) if flat else None

    async def page(
        self, queue: str, statuses: Sequence[str], start: int, length: int
    ) -> tuple[Mapping[str, int], list[tuple[bytes, Fields]]]:
        """Counts by status and a window of jobs per status, newest first."""
        counted = [part for status in statuses for part in _COUNTED_AS.get(status, (status,))]
        counts = await self.counts(queue, counted)
        if length == 0:
            return counts, []
        return counts, await self.jobs(queue, counted, (start, start + length - 1), oldest_first=False)

    async def missing(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """Those of these ids that no job has."""
        keys = self._keys(queue)
        replies = await self._link(keys).pipeline([pack("EXISTS", keys.key(job_id)) for job_id in job_ids])
        return [job_id for job_id, there in zip(job_ids, replies, strict=True) if not there]

    async def held(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """Those of these ids whose job a worker holds the lock of."""
        keys = self._keys(queue)
        locks = [pack("EXISTS", keys.key(f"{job_id}:lock")) for job_id in job_ids]
        replies = await self._link(keys).pipeline(locks)
        return [job_id for job_id, there in zip(job_ids, replies, strict=True) if there]

    async def counts(self, queue: str, states: Sequence[str]) -> Mapping[str, int]:
        """How many jobs are in each of these states."""
        keys = self._keys(queue)
        replies = await self._link(keys).pipeline(
            [pack("LLEN" if state in _LISTS else "ZCARD", keys.key(_STORED_AS.get(state, state))) for state in states]
        )
        return dict(zip(states, replies, strict=True))

    async def oldest_waiting_since_ms(self, queue: str) -> int | None:
        """Since when (wall clock) the job has been waiting that has waited longest; None where none waits."""
        keys = self._keys(queue)
        ends = await self._link(keys).pipeline(
            [
                # Jobs come in at one end and go out at the other, or at the same one (`lifo`): the oldest is at either.
                pack("LRANGE", keys.key("wait"), 0, 0),
                pack("LRANGE", keys.key("wait"), -1, -1),
                pack("LRANGE", keys.key("paused"), -1, -1),
                pack("ZRANGE", keys.key("prioritized"), 0, 0),
                pack("ZRANGE", keys.key("prioritized"), -1, -1),
            ]
        )
        ids = [job_id for end in ends for job_id in end]
        if not ids:
            return None
        commands = [pack("HMGET", keys.key(job_id), "timestamp", "delay") for job_id in ids]
        since = [
            int(timestamp) + int(delay or 0)
            for timestamp, delay in await self._link(keys).pipeline(commands)
            if timestamp is not None
        ]
        return min(since, default=None)

    async def jobs(
        self, queue: str, states: Sequence[str], window: tuple[int, int], *, oldest_first: bool
    ) -> list[tuple[bytes, Fields]]:
        """The jobs of some states, one state after another."""
        keys = self._keys(queue)
        script = self._scripts.get_jobs
        types = [_STORED_AS.get(state, state) for state in states]
        arguments = pack(*window, "1" if oldest_first else "0", _BACKFILL, *types)
        head = script.head([keys.prefix], 4 + len(types))
        pages = await self._scripts.run(keys.prefix, script, head + arguments.partition(b"\r\n")[2])
        return [(job_id, fields_of(flat)) for page in pages for job_id, flat in page]

    async def logs(self, queue: str, job_id: str, start: int, end: int) -> tuple[list[bytes], int]:
        """Log lines from `start` to `end` inclusive, oldest first, and how many there are."""
        keys = self._keys(queue)
        key = keys.key(f"{job_id}:logs")
        lines, count = await self._link(keys).pipeline([pack("LRANGE", key, start, end), pack("LLEN", key)])
        return lines, count

    async def lock_token(self, queue: str, job_id: str) -> bytes | None:
        """The token that holds the job's lock now, or None."""
        keys = self._keys(queue)
        token: bytes | None = await self._link(keys).call("GET", keys.key(f"{job_id}:lock"))
        return token

    async def progress(self, queue: str, job_id: str, value: bytes) -> bool:
        """Store the progress and announce it; False when the job is gone."""
        keys = self._keys(queue)
        script = self._scripts.update_progress
        head = script.head((keys.key(job_id), *keys.keys("events", "meta")), 2)
        reply = await self._scripts.run(keys.prefix, script, head + pack(job_id, value).partition(b"\r\n")[2])
        return bool(reply == 0)

    async def log(self, queue: str, job_id: str, line: str) -> bool:
        """Append a log line, within the job's `keepLogs`; False when the job is gone."""
        keys = self._keys(queue)
        opts = await self._link(keys).call("HGET", keys.key(job_id), "opts")
        keep = read_options(opts).keep_logs if opts else None
        script = self._scripts.add_log
        head = script.head(keys.keys(job_id, f"{job_id}:logs"), 3)
        kept = "" if keep is None else keep
        reply = await self._scripts.run(keys.prefix, script, head + pack(job_id, line, kept).partition(b"\r\n")[2])
        return bool(reply >= 0)


def fields_of(flat: Sequence[Any]) -> dict[bytes, bytes]:
    """A hash as HGETALL returns it (field, value, field, value …) as a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
