"""Reads queues and jobs, and writes what workers report of them. Called by `toril.gateway`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

from toril.bull.keys import LISTS, STORED_AS, QueueKeys
from toril.bull.large_reads import Jobs, LargeReads
from toril.bull.links import KeyLink
from toril.bull.scripts import Scripts
from toril.bull.wire import fields_of, pack
from toril.core.stored_job import Fields, read_options

_COUNTED_AS = {"waiting": ("waiting", "paused")}


class Inspector:
    """Answers what the gateway asks about jobs.

    Args:
        scripts: over the connection that everything shares.
        prefix: BullMQ's.
        reading: over a connection for what may be large; without it, over the same one.
    """

    def __init__(self, scripts: Scripts, prefix: str, reading: Scripts | None = None) -> None:
        self._scripts = scripts
        self._reading = reading or scripts
        self._large = LargeReads(self._reading)
        self._prefix = prefix

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._prefix, queue)

    def _link(self, keys: QueueKeys) -> KeyLink:
        return self._scripts.links.of(keys.prefix)

    async def get(self, queue: str, job_id: str) -> Fields | None:
        """The job's hash, or None."""
        keys = self._keys(queue)
        (flat,) = await self._reading.read(keys.prefix, pack("HGETALL", keys.key(job_id)))
        return fields_of(flat) if flat else None

    async def page(
        self, queue: str, statuses: Sequence[str], start: int, length: int
    ) -> tuple[Mapping[str, int], AsyncGenerator[Jobs, None]]:
        """Counts by status and a window of jobs per status, newest first."""
        counted = [part for status in statuses for part in _COUNTED_AS.get(status, (status,))]
        counts = await self.counts(queue, counted)
        return counts, self.jobs(queue, counted if length else (), (start, start + length - 1), oldest_first=False)

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
            [pack("LLEN" if state in LISTS else "ZCARD", keys.key(STORED_AS.get(state, state))) for state in states]
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

    def jobs(
        self, queue: str, states: Sequence[str], window: tuple[int, int], *, oldest_first: bool
    ) -> AsyncGenerator[Jobs, None]:
        """The jobs of some states, one state after another, piece by piece."""
        return self._large.jobs(self._keys(queue), states, window, oldest_first=oldest_first)

    async def log_count(self, queue: str, job_id: str) -> int:
        """How many log lines a job has."""
        keys = self._keys(queue)
        return int(await self._link(keys).call("LLEN", keys.key(f"{job_id}:logs")))

    def logs(self, queue: str, job_id: str, start: int, end: int) -> AsyncGenerator[list[bytes], None]:
        """Log lines from `start` to `end` inclusive, oldest first, piece by piece."""
        return self._large.lines(self._keys(queue), f"{job_id}:logs", start, end)

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
        kept = keep or ""  # 0 keeps all, as with BullMQ
        reply = await self._scripts.run(keys.prefix, script, head + pack(job_id, line, kept).partition(b"\r\n")[2])
        return bool(reply >= 0)
