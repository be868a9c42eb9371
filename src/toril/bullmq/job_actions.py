"""Actions on one job: remove, retry, promote, change data, priority or delay; its state and its dependencies.

BullMQ's scripts are called as Node's `Job` calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from toril.bullmq.keys import STORED_AS, QueueKeys
from toril.bullmq.lua.long_lists import removing_listed
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.rules.actions import Dependencies, RetryJob
from toril.core.errors import JobNotFound, JobRefused
from toril.core.stored_job import read_options
from toril.redis.resp import fields_of, pack

_MISSING, _WRONG_STATE, _SCHEDULED = -1, -3, -8


class JobActions:
    """BullMQ's `Job` methods. Each raises `JobNotFound` if there is no such job."""

    def __init__(self, scripts: Scripts, prefix: str, now: Callable[[], float], reading: Scripts | None = None) -> None:
        self._scripts = scripts
        self._reading = reading or scripts
        self._prefix = prefix
        self._now = now
        self._remove_listed = removing_listed()

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._prefix, queue)

    def _now_ms(self) -> int:
        return int(self._now() * 1000)

    async def state(self, queue: str, job_id: str) -> str:
        """Return the state of a job; `unknown` if there is no such job."""
        keys = self._keys(queue)
        reply = await self._scripts.call(self._scripts.get_state, keys, job_id)
        return str(reply.decode())

    async def remove(self, queue: str, job_id: str, *, children: bool) -> None:
        """Remove the job, by default with its children.

        Raises:
            JobRefused: the job or a child is active, or it is the next job of a scheduler.
        """
        keys = self._keys(queue)
        await self._known(keys, job_id)
        removed = await self._scripts.call(
            self._scripts.remove_job, keys, job_id, "01"[children], keys.prefix, job=job_id
        )
        if removed == _SCHEDULED:
            raise JobRefused("The job belongs to a job scheduler: remove that", state="delayed")
        if not removed:
            state = await self.state(queue, job_id)
            raise JobRefused("The job or one of its children is being worked on", state=state)

    async def remove_listed(
        self, queue: str, state: str, job_ids: Sequence[str], part: tuple[int, int]
    ) -> list[bool | None]:
        """Remove waiting jobs that stand in one part of their list, with their children, in one step.

        Returns for each whether it was removed; None where it is not in that part now.
        """
        keys = self._keys(queue)
        replies = await self._scripts.call(
            self._remove_listed, keys, keys.prefix, *part, *job_ids, list=STORED_AS.get(state, state)
        )
        return [None if reply is None else reply == 1 for reply in replies]

    async def retry(self, queue: str, job_id: str, asked: RetryJob) -> None:
        """Move a finished job back to waiting.

        Raises:
            JobRefused: the job is not in that state.
        """
        state = asked.state
        keys = self._keys(queue)
        options = await self._scripts.links.of(keys.prefix).call("HGET", keys.key(job_id), "opts")
        lifo = options is not None and read_options(options).lifo
        reply = await self._scripts.call(
            self._scripts.reprocess_job,
            keys,
            job_id,
            "RPUSH" if lifo else "LPUSH",
            "failedReason" if state == "failed" else "returnvalue",
            state,
            "01"[asked.resetAttemptsMade],
            "01"[asked.resetAttemptsStarted],
            job=job_id,
            state=state,
        )
        await self._done(queue, job_id, reply, f"Only a {state} job can be retried so")

    async def promote(self, queue: str, job_id: str) -> None:
        """Move a delayed job to waiting.

        Raises:
            JobRefused: the job is not delayed.
        """
        keys = self._keys(queue)
        await self._known(keys, job_id)
        reply = await self._scripts.call(self._scripts.promote, keys, keys.prefix, job_id)
        await self._done(queue, job_id, reply, "Only a delayed job can be promoted")

    async def update_data(self, queue: str, job_id: str, data: bytes) -> None:
        """Replace the job's data (JSON text)."""
        keys = self._keys(queue)
        reply = await self._scripts.call(self._scripts.update_data, keys, data, job=job_id)
        await self._done(queue, job_id, reply, "")

    async def change_priority(self, queue: str, job_id: str, priority: int, *, lifo: bool) -> None:
        """Change the priority of a job; a waiting job moves to its new place."""
        keys = self._keys(queue)
        reply = await self._scripts.call(self._scripts.change_priority, keys, priority, keys.prefix, job_id, "01"[lifo])
        await self._done(queue, job_id, reply, "")

    async def change_delay(self, queue: str, job_id: str, delay_ms: int) -> None:
        """Set the delay of a delayed job, from now on.

        Raises:
            JobRefused: the job is not delayed.
        """
        keys = self._keys(queue)
        reply = await self._scripts.call(
            self._scripts.change_delay,
            keys,
            delay_ms,
            self._now_ms(),
            job_id,
            keys.key(job_id),
        )
        await self._done(queue, job_id, reply, "Only the delay of a delayed job can be changed")

    async def dependencies(self, queue: str, job_id: str) -> Dependencies:
        """Return what a job of a flow depends on."""
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
        """Return the keys of a job's children: first those that it waits for, then those that have ended."""
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
