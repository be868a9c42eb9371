"""A queue as a whole: pause, resume, drain, clean, obliterate, retry, promote, limits, metrics; who works on it.

Where BullMQ has a script it is called as Node's `Queue` calls it, in batches, so that no call blocks Redis for long.
Called by `toril.gateway`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from toril.bull.holds import HELD
from toril.bull.inspector import Inspector
from toril.bull.keys import QueueKeys
from toril.bull.scripts import Script, Scripts
from toril.bull.sweeps import Sweeps
from toril.bull.wire import ReplyError, pack
from toril.core.actions import STATES, Metrics, QueueState, QueueSummary, RateLimitState
from toril.core.errors import JobRefused, StoreRefused, unwrapped

# The script moves 7,000 jobs a call out of a `paused` list that BullMQ 5 has left; this is more than Redis holds.
_MOST_RESUMES = 100_000
# What the script that unites `wait` and `paused` says when it is to be called again.
_MORE = 2
# So that a call takes about 2 ms of Redis.
_BATCH = 250
_END_OF_TIME = "1.7976931348623157e+308"

log = structlog.get_logger(__name__)


class Control:
    """Answers and does what BullMQ's Queue does for a whole queue.

    `noting` is told of each queue that something is set for: it may be new.
    """

    def __init__(
        self,
        scripts: Scripts,
        inspector: Inspector,
        prefix: str,
        now: Callable[[], float],
        noting: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._noting = noting
        self._scripts = scripts
        self._sweeps = Sweeps(scripts, prefix)
        self._inspector = inspector
        self._prefix = prefix
        self._now = now

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._prefix, queue)

    async def _call(self, keys: QueueKeys, *command: str | bytes | int) -> Any:
        return await self._scripts.links.of(keys.prefix).call(*command)

    async def _pipeline(self, keys: QueueKeys, *commands: bytes) -> list[Any]:
        return await self._scripts.links.of(keys.prefix).pipeline(commands)

    async def exists(self, queue: str) -> bool:
        """Whether anybody has ever used this queue."""
        keys = self._keys(queue)
        return bool(await self._call(keys, "EXISTS", keys.key("meta")))

    async def summaries(self, queues: Sequence[str]) -> list[QueueSummary]:
        """Return those of these queues that are there, as they are now."""
        with unwrapped():
            async with asyncio.TaskGroup() as tasks:
                looking = [tasks.create_task(self._summary(queue)) for queue in queues]
        return [found for task in looking if (found := task.result()) is not None]

    async def _summary(self, queue: str) -> QueueSummary | None:
        keys = self._keys(queue)
        meta = keys.key("meta")
        try:
            exists, paused = await self._pipeline(keys, pack("EXISTS", meta), pack("HEXISTS", meta, "paused"))
            counts = await self._inspector.counts(queue, STATES) if exists else {}
        except StoreRefused as exc:
            if not exc.message.startswith("WRONGTYPE"):
                raise
            # They are not BullMQ's keys, and keep no other queue from being listed.
            log.debug("queues.not_shown", queue=queue, error=exc.message)
            return None
        return QueueSummary(queue, dict(counts), bool(paused)) if exists else None

    async def paused(self, queue: str) -> bool:
        """Whether the queue is paused."""
        keys = self._keys(queue)
        return bool(await self._call(keys, "HEXISTS", keys.key("meta"), "paused"))

    async def describe(self, queue: str) -> QueueState:
        """The queue as it is now."""
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
        )

    async def pause(self, queue: str) -> None:
        """Let no worker take jobs. What waits goes where BullMQ 5 looks for it, if that works on the queue."""
        prefix = self._keys(queue).prefix
        calls = [self._pausing(queue, "wait", "paused", "paused"), self._scripts.looking_after(prefix)]
        _checked(await self._scripts.transaction(prefix, calls))
        self._noting(queue)

    async def resume(self, queue: str) -> None:
        """Let workers take jobs again; jobs that BullMQ 5 has set aside come back.

        They come back in one step. In several, a BullMQ 5 that pauses meanwhile would write over what is left.
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
            if not left:  # there is something only where the queue was not paused and had such a list all the same
                return
            left = await self._scripts.run(prefix, *again)

    def _pausing(self, queue: str, source: str, target: str, event: str, *, tell: bool = True) -> tuple[Script, bytes]:
        parts = self._keys(queue).keys(source, target, "meta", "prioritized", "events", "delayed", "marker")
        return self._scripts.pause, self._scripts.pause.packed(parts, event, "01"[tell])

    async def drain(self, queue: str, *, delayed: bool) -> int:
        """Remove all jobs that wait, and with `delayed` those that are delayed; how many those were."""
        return await self._sweeps.drain(queue, delayed=delayed)

    async def _shrunk(self, keys: QueueKeys, names: Sequence[str], script: Script, packed: bytes) -> int:
        """Call a script; how many jobs are less in these lists and sets behind it."""
        sizes = [(script, pack("LLEN" if name in ("wait", "paused") else "ZCARD", keys.key(name))) for name in names]
        replies = _checked(await self._scripts.transaction(keys.prefix, [*sizes, (script, packed), *sizes]))
        return int(max(0, sum(replies[: len(sizes)]) - sum(replies[-len(sizes) :])))

    async def clean(self, queue: str, state: str, grace_ms: int, limit: int) -> list[bytes]:
        """Remove jobs of a state that are older than `grace_ms`, `limit` at most (0 is all); their ids."""
        return await self._sweeps.clean(queue, state, int(self._now() * 1000) - grace_ms, limit)

    async def obliterate(self, queue: str, *, force: bool) -> int:
        """Remove the queue with all its jobs; how many those were.

        Raises:
            JobRefused: jobs are active, and there is no force. The queue is as it was.
        """
        keys = self._keys(queue)
        counts = await self._inspector.counts(queue, STATES)
        was_paused = await self.paused(queue)
        await self.pause(queue)
        while True:
            left = await self._scripts.call(
                self._scripts.obliterate, keys, (keys.key("meta"), keys.prefix), _BATCH, "force" if force else ""
            )
            if left < 0:
                if not was_paused:
                    await self.resume(queue)
                raise JobRefused("The queue has active jobs; obliterate with force removes them too", state="active")
            if left == 0:
                return sum(counts.values())

    async def retry(self, queue: str, state: str, most: int | None, before_ms: int | None) -> int:
        """Move failed (or completed) jobs back to waiting, the oldest first; how many."""
        return await self._move(queue, state, most, str(int(self._now() * 1000) if before_ms is None else before_ms))

    async def promote(self, queue: str, most: int | None) -> int:
        """Move delayed jobs to waiting; how many."""
        return await self._move(queue, "delayed", most, _END_OF_TIME)

    async def _move(self, queue: str, state: str, most: int | None, before: str) -> int:
        keys = self._keys(queue)
        script = self._scripts.move_jobs_to_wait
        parts = keys.keys("", "events", state, "wait", "paused", "meta", "active", "marker")
        moved = 0
        while most is None or moved < most:
            batch = _BATCH if most is None else min(_BATCH, most - moved)
            shrunk = await self._shrunk(keys, (state,), script, script.packed(parts, batch, before, state))
            moved += shrunk
            if shrunk < batch:
                break
        return moved

    async def concurrency(self, queue: str) -> int | None:
        """How many jobs of this queue may be active at once, everywhere."""
        keys = self._keys(queue)
        stored = await self._call(keys, "HGET", keys.key("meta"), "concurrency")
        return None if stored is None else int(stored)

    async def set_concurrency(self, queue: str, most: int | None) -> None:
        """Set or (None) remove that."""
        keys = self._keys(queue)
        if most is None:
            await self._call(keys, "HDEL", keys.key("meta"), "concurrency")
        else:
            await self._call(keys, "HSET", keys.key("meta"), "concurrency", most)
            self._noting(queue)
        await self._wake(keys)

    async def rate_limit(self, queue: str) -> RateLimitState:
        """The queue's own rate limit, and for how long nothing starts now."""
        keys = self._keys(queue)
        script = self._scripts.get_rate_limit_ttl
        most, duration = await self._call(keys, "HMGET", keys.key("meta"), "max", "duration")
        ttl_ms = await self._scripts.call(script, keys, keys.keys("limiter", "meta"), "0")
        return RateLimitState(_limit(most, duration), max(0, ttl_ms))

    async def set_rate_limit(self, queue: str, limit: tuple[int, int] | None) -> None:
        """At most so many jobs start per so many milliseconds, everywhere; None removes that."""
        keys = self._keys(queue)
        if limit is None:
            await self._call(keys, "HDEL", keys.key("meta"), "max", "duration")
        else:
            await self._call(keys, "HSET", keys.key("meta"), "max", limit[0], "duration", limit[1])
            self._noting(queue)
        await self._wake(keys)

    async def hold(self, queue: str, for_ms: int) -> None:
        """Nothing starts for so long, from now on, or until a hold that is under way ends, if that is later."""
        keys = self._keys(queue)
        await self._scripts.call(self._scripts.hold, keys, keys.keys("limiter", "meta"), HELD, for_ms)

    async def let_go(self, queue: str) -> None:
        """End a hold, and what a rate limit has counted so far."""
        keys = self._keys(queue)
        await self._scripts.call(self._scripts.let_go, keys, keys.keys("limiter", "meta"), HELD)
        await self._wake(keys)

    async def _wake(self, keys: QueueKeys) -> None:
        """Let workers look again, as BullMQ's scripts do where jobs may start."""
        waiting, prioritized, paused = await self._pipeline(
            keys,
            pack("LLEN", keys.key("wait")),
            pack("ZCARD", keys.key("prioritized")),
            pack("HEXISTS", keys.key("meta"), "paused"),
        )
        if (waiting or prioritized) and not paused:
            await self._call(keys, "ZADD", keys.key("marker"), 0, "0")

    async def metrics(self, queue: str, kind: str, start: int, end: int) -> Metrics:
        """How many jobs completed or failed, in all and per minute, the newest first."""
        keys = self._keys(queue)
        parts = keys.keys(f"metrics:{kind}", f"metrics:{kind}:data")
        (count, previous_ts, previous_count), data, points = await self._scripts.call(
            self._scripts.get_metrics, keys, parts, start, end
        )
        return Metrics(
            {"count": int(count or 0), "prevTS": int(previous_ts or 0), "prevCount": int(previous_count or 0)},
            [int(point) for point in data],
            points,
        )

    async def workers(self, queue: str) -> list[dict[str, str]]:
        """The connections whose name says that they work on this queue, as Node's `getWorkers` shows them."""
        wanted = self._keys(queue).client_name()
        found = []
        for link in self._scripts.links.all():
            for line in (await link.call("CLIENT", "LIST")).decode(errors="replace").splitlines():
                client = dict(part.split("=", 1) for part in line.split(" ") if "=" in part)
                name = client.get("name", "")
                if name == wanted or name.startswith(f"{wanted}:w:"):
                    found.append(client | {"name": queue, "rawname": name})
        return found


def _checked(replies: list[Any]) -> list[Any]:
    """Return the replies of a transaction; raise the first error among them."""
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise reply
    return replies


def _limit(most: bytes | None, duration: bytes | None) -> dict[str, int] | None:
    if most is None or duration is None or most == HELD:
        return None
    return {"max": int(most), "duration": int(duration)}
