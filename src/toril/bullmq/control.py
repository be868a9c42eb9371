"""Actions on a whole queue: pause, resume, drain, clean, obliterate, retry, promote, limits, metrics, workers.

BullMQ's scripts are called as Node's `Queue` calls them, in batches, so that no call blocks Redis for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from toril.bullmq.groups.scripts import CLEAR
from toril.bullmq.inspector import Inspector
from toril.bullmq.keys import QueueKeys, expected_types
from toril.bullmq.lua.holds import HELD
from toril.bullmq.lua.pauses import PAUSED_SINCE
from toril.bullmq.lua.queue_script import QueueScript
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.lua.sweeps import Sweeps
from toril.bullmq.rules.actions import (
    STATES,
    QueueLimit,
    QueueMetricsMeta,
    QueueMetricsPoints,
    QueueState,
    QueueSummary,
    RateLimitState,
)
from toril.core.errors import JobRefused, WrongKeyType, unwrapped
from toril.redis.resp import ReplyError, pack

# The script moves 7,000 jobs per call out of a `paused` list that BullMQ 5 has left. No Redis holds as many as this.
_MOST_RESUMES = 100_000
# The reply of the script that unites `wait` and `paused` when it has to be called again.
_MORE = 2
# A call for so many jobs takes Redis about 1 ms.
_BATCH = 100
_END_OF_TIME = "1.7976931348623157e+308"

log = structlog.get_logger(__name__)


class Control:
    """BullMQ's `Queue` methods that read or change a whole queue.

    `noting` is called with each queue that something is set for, since it may be new. `lifted` announces that a rate
    limit or hold of a queue was removed.
    """

    def __init__(
        self,
        scripts: Scripts,
        inspector: Inspector,
        lifted: Callable[[str], Awaitable[None]],
        prefix: str,
        now: Callable[[], float],
        noting: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._noting = noting
        self._scripts = scripts
        self._sweeps = Sweeps(scripts, prefix)
        self._inspector = inspector
        self._lifted = lifted
        self._prefix = prefix
        self._now = now

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._prefix, queue)

    async def _call(self, keys: QueueKeys, *command: str | bytes | int) -> Any:
        return await self._scripts.links.of(keys.prefix).call(*command)

    async def _pipeline(self, keys: QueueKeys, *commands: bytes) -> list[Any]:
        return await self._scripts.links.of(keys.prefix).pipeline(commands)

    async def exists(self, queue: str) -> bool:
        """Return True once the queue has been used."""
        keys = self._keys(queue)
        return bool(await self._call(keys, "EXISTS", keys.key("meta")))

    async def summaries(self, queues: Sequence[str]) -> list[QueueSummary]:
        """Return the names, counts and pause states of those of these queues that exist."""
        with unwrapped():
            async with asyncio.TaskGroup() as tasks:
                looking = [tasks.create_task(self._summary(queue)) for queue in queues]
        return [found for task in looking if (found := task.result()) is not None]

    async def _summary(self, queue: str) -> QueueSummary | None:
        keys = self._keys(queue)
        meta = keys.key("meta")
        try:
            with expected_types(queue):
                exists, paused = await self._pipeline(keys, pack("EXISTS", meta), pack("HEXISTS", meta, "paused"))
            counts = await self._inspector.counts(queue, STATES) if exists else {}
        except WrongKeyType as exc:
            # The keys are not BullMQ's. The other queues are listed all the same.
            log.debug("queues.not_shown", queue=queue, error=exc.message)
            return None
        return QueueSummary(queue, dict(counts), bool(paused)) if exists else None

    async def paused(self, queue: str) -> bool:
        """Return True if the queue is paused."""
        keys = self._keys(queue)
        return bool(await self._call(keys, "HEXISTS", keys.key("meta"), "paused"))

    async def paused_since_ms(self, queue: str) -> int | None:
        """Return since when the queue is paused (wall clock); None where it is not, or that is not known."""
        since = await self._scripts.call(PAUSED_SINCE, self._keys(queue))
        return int(since) if since is not None and since.isdigit() else None

    async def describe(self, queue: str) -> QueueState:
        """Return the current state of the queue."""
        keys = self._keys(queue)
        counts = await self._inspector.counts(queue, STATES)
        meta, set_aside = await self._pipeline(
            keys,
            pack("HMGET", keys.key("meta"), "paused", "concurrency", "max", "duration"),
            pack("LLEN", keys.key("paused")),
        )
        since_ms = await self._inspector.oldest_waiting_since_ms(queue)
        paused, concurrency, most, duration = meta
        return QueueState(
            name=queue,
            counts=dict(counts),
            paused=paused is not None,
            concurrency=None if concurrency is None else int(concurrency),
            rate_limit=_limit(most, duration),
            workers=await self.workers(queue),
            oldest_waiting_age_ms=None if since_ms is None else max(0, int(self._now() * 1000) - since_ms),
            split=bool(set_aside and counts["waiting"]),
            paused_since_ms=None if paused is None else await self.paused_since_ms(queue),
        )

    async def pause(self, queue: str) -> None:
        """Pause the queue. If BullMQ 5 works on it, waiting jobs go into the list where BullMQ 5 looks for them."""
        prefix = self._keys(queue).prefix
        calls = [self._pausing(queue, "wait", "paused", "paused"), self._scripts.looking_after(prefix)]
        _checked(await self._scripts.transaction(prefix, calls))
        self._noting(queue)

    async def resume(self, queue: str) -> None:
        """Resume the queue, with the jobs that BullMQ 5 has moved into `paused`.

        They come back in one step. In several, a BullMQ 5 that pauses in between would overwrite the remaining ones.
        """
        prefix = self._keys(queue).prefix
        look = self._scripts.looking_after(prefix)
        while await self._scripts.run(prefix, *look) == _MORE:
            pass
        _, left = _checked(
            await self._scripts.transaction(prefix, [look, self._pausing(queue, "paused", "wait", "resumed")])
        )
        again = self._pausing(queue, "paused", "wait", "resumed", tell=False)
        for _ in range(_MOST_RESUMES):
            if not left:  # jobs are left only where a queue that was not paused had such a list
                return
            left = await self._scripts.run(prefix, *again)

    def _pausing(
        self, queue: str, source: str, target: str, event: str, *, tell: bool = True
    ) -> tuple[QueueScript, bytes]:
        script = self._scripts.pause
        now_ms = int(self._now() * 1000)
        return script, script.of(self._keys(queue), event, "01"[tell], now_ms, source=source, target=target)

    async def drain(self, queue: str, *, delayed: bool) -> int:
        """Remove all waiting jobs, and with `delayed` the delayed ones; return how many were removed."""
        return await self._sweeps.drain(queue, delayed=delayed)

    async def _shrunk(self, keys: QueueKeys, name: str, script: QueueScript, packed: bytes) -> int:
        """Run a script; return how many jobs it has removed from this sorted set."""
        size = (None, pack("ZCARD", keys.key(name)))
        before, _, after = _checked(await self._scripts.transaction(keys.prefix, [size, (script, packed), size]))
        return int(max(0, before - after))

    async def clean(self, queue: str, state: str, grace_ms: int, limit: int) -> list[bytes]:
        """Remove jobs of a state that are older than `grace_ms`, at most `limit` (0: all); return their ids."""
        return await self._sweeps.clean(queue, state, int(self._now() * 1000) - grace_ms, limit)

    async def obliterate(self, queue: str, *, force: bool) -> int:
        """Remove the queue with all its jobs; return how many it had.

        Raises:
            JobRefused: jobs are active and `force` is False. The queue is unchanged.
        """
        keys = self._keys(queue)
        counts = await self._inspector.counts(queue, STATES)
        was_paused = await self.paused(queue)
        await self.pause(queue)
        while True:
            left = await self._scripts.call(self._scripts.obliterate, keys, _BATCH, "force" if force else "")
            if left < 0:
                if not was_paused:
                    await self.resume(queue)
                raise JobRefused("The queue has active jobs; obliterate with force removes them too", state="active")
            if left == 0:
                while await self._scripts.call(CLEAR, keys):
                    pass
                return sum(counts.values())

    async def retry(self, queue: str, state: str, most: int | None, before_ms: int | None) -> int:
        """Move failed (or completed) jobs back to waiting, the oldest first; return how many."""
        return await self._move(queue, state, most, str(int(self._now() * 1000) if before_ms is None else before_ms))

    async def promote(self, queue: str, most: int | None) -> int:
        """Move delayed jobs to waiting; return how many."""
        return await self._move(queue, "delayed", most, _END_OF_TIME)

    async def _move(self, queue: str, state: str, most: int | None, before: str) -> int:
        keys = self._keys(queue)
        script = self._scripts.move_jobs_to_wait
        moved = 0
        while most is None or moved < most:
            batch = _BATCH if most is None else min(_BATCH, most - moved)
            shrunk = await self._shrunk(keys, state, script, script.of(keys, batch, before, state, state=state))
            moved += shrunk
            if shrunk < batch:
                break
        return moved

    async def concurrency(self, queue: str) -> int | None:
        """Return how many jobs of this queue may be active at once across all workers; None without a limit."""
        keys = self._keys(queue)
        stored = await self._call(keys, "HGET", keys.key("meta"), "concurrency")
        return None if stored is None else int(stored)

    async def set_concurrency(self, queue: str, most: int | None) -> None:
        """Set how many jobs may be active at once; None removes the limit."""
        keys = self._keys(queue)
        if most is None:
            await self._call(keys, "HDEL", keys.key("meta"), "concurrency")
        else:
            await self._call(keys, "HSET", keys.key("meta"), "concurrency", most)
            self._noting(queue)
        await self._wake(keys)

    async def rate_limit(self, queue: str) -> RateLimitState:
        """Return the queue's rate limit, and for how long no job starts now."""
        keys = self._keys(queue)
        script = self._scripts.get_rate_limit_ttl
        most, duration = await self._call(keys, "HMGET", keys.key("meta"), "max", "duration")
        ttl_ms = await self._scripts.call(script, keys, "0")
        return RateLimitState(_limit(most, duration), max(0, ttl_ms))

    async def set_rate_limit(self, queue: str, limit: tuple[int, int] | None) -> None:
        """Set how many jobs may start per how many milliseconds across all workers; None removes the limit."""
        keys = self._keys(queue)
        if limit is None:
            await self._call(keys, "HDEL", keys.key("meta"), "max", "duration")
        else:
            await self._call(keys, "HSET", keys.key("meta"), "max", limit[0], "duration", limit[1])
            self._noting(queue)
        await self._wake(keys)
        await self._lifted(queue)

    async def hold(self, queue: str, for_ms: int) -> None:
        """Start no job for `for_ms` from now, or until the current hold ends if that is later."""
        keys = self._keys(queue)
        await self._scripts.call(self._scripts.hold, keys, HELD, for_ms)

    async def let_go(self, queue: str) -> None:
        """End a hold, and reset the count of a rate limit."""
        keys = self._keys(queue)
        await self._scripts.call(self._scripts.let_go, keys, HELD)
        await self._lifted(queue)

    async def _wake(self, keys: QueueKeys) -> None:
        """Wake workers by a marker if jobs wait, as BullMQ's scripts do."""
        waiting, prioritized, paused = await self._pipeline(
            keys,
            pack("LLEN", keys.key("wait")),
            pack("ZCARD", keys.key("prioritized")),
            pack("HEXISTS", keys.key("meta"), "paused"),
        )
        if (waiting or prioritized) and not paused:
            await self._call(keys, "ZADD", keys.key("marker"), 0, "0")

    async def metrics(self, queue: str, kind: str, start: int, end: int) -> QueueMetricsPoints:
        """Return how many jobs completed or failed, in total and per minute, the newest first."""
        keys = self._keys(queue)
        (count, previous_ts, previous_count), data, points = await self._scripts.call(
            self._scripts.get_metrics, keys, start, end, kind=kind
        )
        return QueueMetricsPoints(
            QueueMetricsMeta(int(count or 0), int(previous_ts or 0), int(previous_count or 0)),
            [int(point) for point in data],
            points,
        )

    async def workers(self, queue: str) -> list[dict[str, str]]:
        """Return the connections that are named as workers of this queue, as Node's `getWorkers` does.

        Those that toril itself has so that others find it have `presence`: they work on nothing.
        """
        wanted, presence = self._keys(queue).client_name(), self._keys(queue).presence_name()
        found = []
        for link in self._scripts.links.all():
            for line in (await link.call("CLIENT", "LIST")).decode(errors="replace").splitlines():
                client = dict(part.split("=", 1) for part in line.split(" ") if "=" in part)
                name = client.get("name", "")
                if name == wanted or name.startswith(f"{wanted}:w:"):
                    own = {"presence": "toril"} if name == presence else {}
                    found.append(client | {"name": queue, "rawname": name} | own)
        return found


def _checked(replies: list[Any]) -> list[Any]:
    """Return the replies of a transaction; raise the first error among them."""
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise reply
    return replies


def _limit(most: bytes | None, duration: bytes | None) -> QueueLimit | None:
    if most is None or duration is None or most == HELD:
        return None
    return QueueLimit(int(most), int(duration))
