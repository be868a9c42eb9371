"""Changes of one job: remove, retry, promote, data, priority, delay; its state and what it depends on.

BullMQ's scripts, called as Node's `Job` calls them. Called by `toril.gateway`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toril.bull.keys import QueueKeys
from toril.bull.scripts import Scripts
from toril.bull.wire import fields_of, pack
from toril.core.actions import Dependencies, RetryJob
from toril.core.errors import JobNotFound, JobRefused
from toril.core.stored_job import read_options

_MISSING, _WRONG_STATE, _SCHEDULED = -1, -3, -8
_STATE_KEYS = ("completed", "failed", "delayed", "active", "wait", "paused", "waiting-children", "prioritized")


class JobActions:
    """Does what BullMQ's Job does. Every method raises `JobNotFound` where there is no such job."""

    def __init__(self, scripts: Scripts, prefix: str, now: Callable[[], float], reading: Scripts | None = None) -> None:
        self._scripts = scripts
        self._reading = reading or scripts
        self._prefix = prefix
        self._now = now

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._prefix, queue)

    def _now_ms(self) -> int:
        return int(self._now() * 1000)

    async def state(self, queue: str, job_id: str) -> str:
        """The state that a job is in; `unknown` where there is no such job."""
        keys = self._keys(queue)
        reply = await self._scripts.call(self._scripts.get_state, keys, keys.keys(*_STATE_KEYS), job_id)
        return str(reply.decode())

    async def remove(self, queue: str, job_id: str, *, children: bool) -> None:
        """Remove the job, by default with its children.

        Raises:
            JobRefused: it or a child is being worked on, or it is a scheduler's next job.
        """
        keys = self._keys(queue)
        await self._known(keys, job_id)
        removed = await self._scripts.call(
            self._scripts.remove_job, keys, keys.keys(job_id, "repeat"), job_id, "01"[children], keys.prefix
        )
        if removed == _SCHEDULED:
            raise JobRefused("The job belongs to a job scheduler: remove that", state="delayed")
        if not removed:
            state = await self.state(queue, job_id)
            raise JobRefused("The job or one of its children is being worked on", state=state)

    async def retry(self, queue: str, job_id: str, asked: RetryJob) -> None:
        """Move a finished job back to waiting.

        Raises:
            JobRefused: it is not in that state.
        """
        state = asked.state
        keys = self._keys(queue)
        options = await self._scripts.links.of(keys.prefix).call("HGET", keys.key(job_id), "opts")
        lifo = options is not None and read_options(options).lifo
        reply = await self._scripts.call(
            self._scripts.reprocess_job,
            keys,
            keys.keys(job_id, "events", state, "wait", "meta", "active", "marker", "prioritized", "pc"),
            job_id,
            "RPUSH" if lifo else "LPUSH",
            "failedReason" if state == "failed" else "returnvalue",
            state,
            "01"[asked.resetAttemptsMade],
            "01"[asked.resetAttemptsStarted],
        )
        await self._done(queue, job_id, reply, f"Only a {state} job can be retried so")

    async def promote(self, queue: str, job_id: str) -> None:
        """Let a delayed job wait no longer.

        Raises:
            JobRefused: it is not delayed.
        """
        keys = self._keys(queue)
        await self._known(keys, job_id)
        parts = keys.keys("delayed", "wait", "paused", "meta", "prioritized", "active", "pc", "events", "marker")
        reply = await self._scripts.call(self._scripts.promote, keys, parts, keys.prefix, job_id)
        await self._done(queue, job_id, reply, "Only a delayed job can be promoted")

    async def update_data(self, queue: str, job_id: str, data: bytes) -> None:
        """Replace the job's data (JSON text)."""
        keys = self._keys(queue)
        reply = await self._scripts.call(self._scripts.update_data, keys, keys.keys(job_id), data)
        await self._done(queue, job_id, reply, "")

    async def change_priority(self, queue: str, job_id: str, priority: int, *, lifo: bool) -> None:
        """Give the job another priority; it moves if it waits."""
        keys = self._keys(queue)
        parts = keys.keys("wait", "paused", "meta", "prioritized", "active", "pc", "marker")
        reply = await self._scripts.call(
            self._scripts.change_priority, keys, parts, priority, keys.prefix, job_id, "01"[lifo]
        )
        await self._done(queue, job_id, reply, "")

    async def change_delay(self, queue: str, job_id: str, delay_ms: int) -> None:
        """Let a delayed job wait so long from now.

        Raises:
            JobRefused: it is not delayed.
        """
        keys = self._keys(queue)
        reply = await self._scripts.call(
            self._scripts.change_delay,
            keys,
            keys.keys("delayed", "meta", "marker", "events"),
            delay_ms,
            self._now_ms(),
            job_id,
            keys.key(job_id),
        )
        await self._done(queue, job_id, reply, "Only the delay of a delayed job can be changed")

    async def dependencies(self, queue: str, job_id: str) -> Dependencies:
        """What a flow's job waits for."""
        keys = self._keys(queue)
        processed, unprocessed, ignored, failed = await self._reading.read(
            keys.prefix,
            pack("HGETALL", keys.key(f"{job_id}:processed")),
            pack("SMEMBERS", keys.key(f"{job_id}:dependencies")),
            pack("HGETALL", keys.key(f"{job_id}:failed")),
            pack("ZRANGE", keys.key(f"{job_id}:unsuccessful"), 0, -1),
        )
        return Dependencies(
            {key.decode(errors="replace"): value for key, value in fields_of(processed).items()},
            sorted(key.decode(errors="replace") for key in unprocessed),
            {_text(key): _text(reason) for key, reason in fields_of(ignored).items()},
            [_text(key) for key in failed],
        )

    async def children(self, queue: str, job_id: str) -> list[str]:
        """The keys of a job's children: of those that it waits for, and then of those that are done."""
        keys = self._keys(queue)
        unprocessed, *done = await self._reading.read(
            keys.prefix,
            pack("SMEMBERS", keys.key(f"{job_id}:dependencies")),
            pack("HKEYS", keys.key(f"{job_id}:processed")),
            pack("HKEYS", keys.key(f"{job_id}:failed")),
            pack("ZRANGE", keys.key(f"{job_id}:unsuccessful"), 0, -1),
        )
        return [_text(key) for key in (*sorted(unprocessed), *(key for keys in done for key in keys))]

    async def _known(self, keys: QueueKeys, job_id: str) -> None:
        if not await self._scripts.links.of(keys.prefix).call("EXISTS", keys.key(job_id)):
            raise JobNotFound

    async def _done(self, queue: str, job_id: str, reply: Any, refusal: str) -> None:
        if reply == _MISSING:
            raise JobNotFound
        if reply == _WRONG_STATE:
            raise JobRefused(refusal, state=await self.state(queue, job_id))


def _text(stored: bytes) -> str:
    return stored.decode(errors="replace")
