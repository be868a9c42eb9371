"""Reads queues and jobs, and writes the progress and the log lines that workers report."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

from toril.bullmq.keys import LISTS, STORED_AS, QueueKeys, expected_types, is_wrong_type, wrong_key_type
from toril.bullmq.lua.groups import FLAG
from toril.bullmq.lua.large_reads import Jobs, LargeReads
from toril.bullmq.lua.scripts import Scripts
from toril.core.errors import JobNotFound
from toril.core.made_attempt import FIELD, JobAttempt, attempts_of
from toril.core.stored_job import Fields, read_options
from toril.redis.links import KeyLink
from toril.redis.resp import ReplyError, fields_of, pack

_COUNTED_AS = {"waiting": ("waiting", "paused")}


class Inspector:
    """A reader of queues and jobs.

    Args:
        scripts: BullMQ's scripts on the shared connection.
        prefix: the prefix of BullMQ's keys.
        reading: BullMQ's scripts on a connection for large replies; by default the shared one.
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
        """Return the fields of a job's hash; None if there is no such job."""
        key = f"{self._prefix}:{queue}:{job_id}".encode()
        try:
            flat = await self._reading.links.of(key).call("HGETALL", key)
        except ReplyError as exc:  # `expected_types` costs 1 µs
            if not is_wrong_type(exc):
                raise
            raise wrong_key_type(queue) from exc
        return fields_of(flat) if flat else None

    async def page(
        self,
        queue: str,
        statuses: Sequence[str],
        start: int,
        length: int,
        *,
        oldest_first: bool = False,
        fields: Sequence[bytes] = (),
    ) -> tuple[Mapping[str, int], AsyncGenerator[Jobs, None]]:
        """Return counts by status and a window of jobs per status; with `fields` only these of their hashes."""
        parts = [part for status in statuses for part in _COUNTED_AS.get(status, (status,))]
        counted = list(dict.fromkeys(parts))
        counts = await self.counts(queue, counted)
        window = (start, start + length - 1)
        shown = counted if length else ()
        return counts, self._large.jobs(self._keys(queue), shown, window, oldest_first=oldest_first, fields=fields)

    async def missing(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """Return those of these ids that no job has."""
        keys = self._keys(queue)
        replies = await self._link(keys).pipeline([pack("EXISTS", keys.key(job_id)) for job_id in job_ids])
        return [job_id for job_id, there in zip(job_ids, replies, strict=True) if not there]

    async def held(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """Return those of these ids whose jobs are locked by a worker."""
        keys = self._keys(queue)
        locks = [pack("EXISTS", keys.key(f"{job_id}:lock")) for job_id in job_ids]
        replies = await self._link(keys).pipeline(locks)
        return [job_id for job_id, there in zip(job_ids, replies, strict=True) if there]

    async def counts(self, queue: str, states: Sequence[str]) -> Mapping[str, int]:
        """Return how many jobs are in each of these states."""
        keys = self._keys(queue)
        sizes = [pack("LLEN" if state in LISTS else "ZCARD", keys.key(STORED_AS.get(state, state))) for state in states]
        with expected_types(queue):
            replies = await self._link(keys).pipeline(sizes)
        return dict(zip(states, replies, strict=True))

    async def paused_or_grouped(self, queue: str) -> tuple[bool, bool]:
        """Return whether the queue is paused, and whether it has jobs of groups."""
        keys = self._keys(queue)
        paused, grouped = await self._link(keys).call("HMGET", keys.key("meta"), "paused", FLAG)
        return paused is not None, grouped is not None

    async def oldest_waiting_since_ms(self, queue: str) -> int | None:
        """Return when the longest-waiting job began to wait (wall clock); None if no job waits."""
        keys = self._keys(queue)
        ends = await self._link(keys).pipeline(
            [
                # Jobs enter at one end and leave at the other, or at the same one (`lifo`): the oldest is at one end.
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
        """Return the jobs of these states, one state after another, in pieces."""
        return self._large.jobs(self._keys(queue), states, window, oldest_first=oldest_first)

    async def attempts(self, queue: str, job_id: str) -> list[JobAttempt]:
        """Return the attempts of a job, the newest first.

        Raises:
            JobNotFound: there is no such job.
        """
        keys = self._keys(queue)
        key = keys.key(job_id)
        names = (FIELD, "timestamp", "delay", "processedOn", "finishedOn", "atm", "attemptsMade")
        # A return value may be large, and only whether there is one is asked.
        commands = [pack("EXISTS", key), pack("HEXISTS", key, "returnvalue"), pack("HMGET", key, *names)]
        with expected_types(queue):
            exists, completed, values = await self._link(keys).pipeline(commands)
        if not exists:
            raise JobNotFound
        fields = {name.encode(): value for name, value in zip(names, values, strict=True) if value is not None}
        return attempts_of(fields, completed=bool(completed))

    async def log_count(self, queue: str, job_id: str) -> int:
        """Return how many log lines a job has."""
        keys = self._keys(queue)
        return int(await self._link(keys).call("LLEN", keys.key(f"{job_id}:logs")))

    def logs(self, queue: str, job_id: str, start: int, end: int) -> AsyncGenerator[list[bytes], None]:
        """Return the log lines from `start` to `end` (inclusive), oldest first, in pieces."""
        return self._large.lines(self._keys(queue), f"{job_id}:logs", start, end)

    async def lock_token(self, queue: str, job_id: str) -> bytes | None:
        """Return the token of the job's lock; None if the job is not locked."""
        keys = self._keys(queue)
        token: bytes | None = await self._link(keys).call("GET", keys.key(f"{job_id}:lock"))
        return token

    async def progress(self, queue: str, job_id: str, value: bytes) -> bool:
        """Store the progress and announce it; return False if the job is gone."""
        keys = self._keys(queue)
        reply = await self._scripts.call(self._scripts.update_progress, keys, job_id, value, job=job_id)
        return bool(reply == 0)

    async def log(self, queue: str, job_id: str, line: str) -> bool:
        """Append a log line, within the job's `keepLogs`; return False if the job is gone."""
        keys = self._keys(queue)
        opts = await self._link(keys).call("HGET", keys.key(job_id), "opts")
        keep = read_options(opts).keep_logs if opts else None
        kept = keep or ""  # 0 keeps all, as with BullMQ
        reply = await self._scripts.call(self._scripts.add_log, keys, job_id, line, kept, job=job_id)
        return bool(reply >= 0)
