"""Leases jobs and settles them: take, extend, complete, fail, retry, delay, release.

There is one `Leases` per queue and worker settings. The calls are BullMQ's scripts; the head of each Lua file says what
they return. Nothing here may decide on a job: the verdict comes from a destination.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeGuard

import structlog

from toril.bullmq.groups.defaults import GroupDefaults
from toril.bullmq.groups.held import GroupsHeld
from toril.bullmq.leasing.calls import LeaseCalls, attempts_with, failure_fields, pack_texts
from toril.bullmq.leasing.held_leases import HeldLeases, LeasingContext
from toril.bullmq.leasing.options_cache import OptionsCache
from toril.bullmq.lua.hashless import passed_over
from toril.bullmq.lua.holds import HELD
from toril.bullmq.lua.lapsed_locks import TAKE_BACK
from toril.bullmq.lua.queue_script import QueueScript
from toril.bullmq.lua.scripts import Scripts, refused
from toril.bullmq.schedulers import Schedulers
from toril.core.destination import LeaseRules
from toril.core.errors import StoreError
from toril.core.lease import LENGTH_FIELD, NOTHING, Lease, Next, NoJob
from toril.core.made_attempt import FIELD
from toril.core.stored_job import Keep
from toril.core.verdict import Complete, Fail, Retry, Snooze
from toril.redis.resp import fields_of

log = structlog.get_logger(__name__)

_KEEP_ALL = Keep(-1)
# The parts of a reply of the scripts that lease. One more says that the queue has groups; `_MORE` is its value where
# there may be more to look at now. Behind it stands which groups were held back, if any.
_PARTS, _MORE = 4, 2
# Redis looks for each of them in the list of active jobs.
_TAKEN_BACK_AT_ONCE = 50

# Records how long the lease is, if this token holds the lock.
_NOTE_LENGTH = QueueScript(
    "noteLength",
    b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[2], '%b', ARGV[2] .. ':' .. ARGV[1]) end
return 0
"""
    % LENGTH_FIELD.encode(),
    keys="{job}:lock {job}",
    arguments="token lock_ms",
    returns="0, or -1 if another token or none holds the lock",
)
# In one step, since the holder may extend the lock at any moment, which must not be undone. A lock that lasts longer
# than `usual_ms` was extended by its holder.
_HAND_OVER = QueueScript(
    "handOver",
    b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[2], '%b', ARGV[2] .. ':' .. ARGV[1]) end
local left = redis.call('PTTL', KEYS[1])
if left > tonumber(ARGV[3]) then return left end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SREM', KEYS[3], ARGV[4])
return tonumber(ARGV[2])
"""
    % LENGTH_FIELD.encode(),
    keys="{job}:lock {job} stalled",
    arguments="token lock_ms usual_ms job_id",
    returns="for how many milliseconds the lock lasts, or -1 if another token or none holds it",
)
# Sets the count of this lease instead of adding to it, so that a call whose reply was lost can be repeated.
_COUNT_STALL = QueueScript(
    "countStall",
    b"""
local token = redis.call('GET', KEYS[1])
if token ~= ARGV[1] then return token and -6 or -2 end
local count = tonumber(redis.call('HGET', KEYS[2], 'stc') or '0')
if count < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[2], 'stc', ARGV[2])
  redis.call('XADD', KEYS[3], '*', 'event', 'stalled', 'jobId', ARGV[3])
end
return 0
""",
    keys="{job}:lock {job} events",
    arguments="token count job_id",
    returns="0, or BullMQ's -2 (there is no lock) or -6 (another worker holds it)",
)


class LeaseStores:
    """A factory of the `Leases` of each queue. `defaults` says what holds for groups without limits, and `held` counts
    how often groups were held back.
    """

    def __init__(
        self,
        scripts: Scripts,
        schedulers: Schedulers,
        prefix: str,
        lock_ms: int,
        stalled_ms: int,
        now: Callable[[], float],
    ) -> None:
        self.schedulers = schedulers
        self.defaults = GroupDefaults()
        self.held = GroupsHeld(now)
        self._shared = LeasingContext(
            scripts, schedulers, prefix, lock_ms, stalled_ms, now, OptionsCache(), self.defaults, self.held
        )

    def of(self, queue: str, rules: LeaseRules, lock_ms: int | None = None, worker: str | None = None) -> Leases:
        """Return the leases of a queue with a worker's limiter and retention, and its lock length and name if given."""
        return Leases(self._shared, queue, rules, self._shared.lock_ms if lock_ms is None else lock_ms, worker)


class Leases(HeldLeases):
    """The leases of one queue: takes and settles jobs. It holds no connection and no state of jobs."""

    __slots__ = ("_calls_made", "_has_groups", "_limiter", "_worker", "lock_ms")

    def __init__(self, shared: LeasingContext, queue: str, rules: LeaseRules, lock_ms: int, worker: str | None) -> None:
        super().__init__(shared, queue, rules)
        self._calls_made: LeaseCalls | None = None
        # Whether the queue is known to have groups; then other scripts lease and settle.
        self._has_groups = False
        self.lock_ms = lock_ms
        self._worker = worker
        self._limiter = (
            None if rules.limiter is None else {"max": rules.limiter.max, "duration": rules.limiter.duration}
        )

    def _run(self, script: QueueScript, packed: bytes) -> Coroutine[Any, Any, Any]:
        return self._shared.scripts.run(self._keys.prefix, script, packed)

    def _calls(self) -> LeaseCalls:
        # Made at the first lease: a thousand idle workers must not take the memory of these.
        if self._calls_made is None:
            scripts, defaults = self._shared.scripts.plain_leases, None
            if self._has_groups:
                scripts, defaults = self._shared.scripts.group_leases, self._shared.defaults
            self._calls_made = LeaseCalls(self._keys, scripts, self._limiter, self.lock_ms, self._worker, defaults)
        return self._calls_made

    def _meet_groups(self) -> None:
        """Lease and settle with the scripts for queues with groups from now on."""
        if not self._has_groups:
            self._has_groups = True
            self._calls_made = None

    def _calls_for(self, lease: Lease) -> LeaseCalls:
        """Return the calls that settle this lease: a job of a group holds a slot."""
        if lease.options.group is not None:
            self._meet_groups()
        return self._calls()

    async def take(self, token: bytes) -> Next:
        """Lease the next job under `token`."""
        while True:
            calls = self._calls()
            reply = await self._run(calls.scripts.take, calls.take(self._now_ms(), token))
            self._count_held(reply)
            if self._passed_over(reply) or self._has_more(reply):
                continue
            found = self._next(reply, token)
            if not self._is_stray(found, reply) or not await self._take_in(found):
                return found

    def _has_more(self, reply: list[Any]) -> bool:
        """Return True if a queue with groups has more to look at, now that it is known to have some."""
        if len(reply) == _PARTS or reply[0]:
            return False
        if not self._has_groups:
            self._meet_groups()
            return True
        return bool(reply[_PARTS] == _MORE)

    def _count_held(self, reply: list[Any]) -> None:
        if len(reply) > _PARTS + 1:
            self._shared.held.count(self.queue, reply[_PARTS + 1])

    @staticmethod
    def _is_stray(found: Next | None, reply: Any) -> TypeGuard[Lease]:
        """Return True for a job of a group that was leased without a slot: the queue was not known to have groups."""
        return isinstance(found, Lease) and found.options.group is not None and len(reply) == _PARTS

    async def _take_in(self, lease: Lease) -> bool:
        """Put a job that was leased without a slot among the waiting ones of its group; return False if it has none."""
        self._meet_groups()
        scripts = self._shared.scripts
        return bool(await scripts.call(scripts.take_in, self._keys, lease.job_id, lease.token))

    def _passed_over(self, reply: Any) -> bool:
        """Return True if the script dropped an id without a hash; it has then leased no other job."""
        job_id = passed_over(reply)
        if job_id is not None:
            log.warning("lease.job_without_hash", queue=self.queue, job_id=job_id.decode(errors="replace"))
        return job_id is not None

    async def complete(self, lease: Lease, verdict: Complete, *, fetch_next: bool) -> Next | None:
        """Move the job to completed; with `fetch_next`, return the next job, leased under the same token."""
        self._touch_parent(lease)
        kept = lease.options.keep_completed or self._rules.keep_completed or _KEEP_ALL
        calls = self._calls_for(lease)
        options = calls.finish_options(lease.token, kept, lease.options)
        if verdict.fields:
            packed = calls.complete_with_fields(lease, self._now_ms(), verdict, options, fetch_next)
        else:
            packed = calls.complete(lease, self._now_ms(), verdict.returnvalue, options, fetch_next)
        reply = await self._run(calls.scripts.finish, packed)
        found = self._settled(reply, lease, fetch_next)
        return None if self._is_stray(found, reply) and await self._take_in(found) else found

    async def fail(self, lease: Lease, verdict: Fail, *, fetch_next: bool) -> Next | None:
        """Move the job to failed; with `fetch_next`, return the next job, leased under the same token."""
        self._touch_parent(lease)
        kept = lease.options.keep_failed or self._rules.keep_failed or _KEEP_ALL
        keys, scripts = self._keys, self._shared.scripts
        await self._hold(verdict)
        calls = self._calls_for(lease)
        reply = await scripts.call(
            calls.scripts.finish, keys,
            lease.job_id, self._now_ms(), "failedReason", verdict.reason, "failed", "1" if fetch_next else "",
            keys.prefix, calls.finish_options(lease.token, kept, lease.options), failure_fields(lease, verdict),
            state="failed", job=lease.job_id,
        )  # fmt: skip
        found = self._settled(reply, lease, fetch_next)
        return None if self._is_stray(found, reply) and await self._take_in(found) else found

    async def retry(self, lease: Lease, verdict: Retry, *, fetch_next: bool) -> Next | None:
        """Move the job to delayed for `after_ms`, or to waiting if that is 0 (which leases no next job)."""
        keys, scripts = self._keys, self._shared.scripts
        changes = failure_fields(lease, verdict)
        await self._hold(verdict)
        if verdict.after_ms <= 0:
            push = "RPUSH" if lease.options.lifo else "LPUSH"
            arguments = (keys.prefix, self._now_ms(), push, lease.job_id, lease.token, changes)
            reply = await scripts.call(self._calls_for(lease).scripts.retry, keys, *arguments, job=lease.job_id)
            return self._settled(reply, lease, False)
        return await self._delay(lease, verdict.after_ms, changes, fetch_next=fetch_next, spend=True)

    async def _hold(self, verdict: Retry | Fail) -> None:
        """Hold the queue first, so that settling leases no next job."""
        if verdict.hold_ms:
            scripts = self._shared.scripts
            await scripts.call(scripts.hold, self._keys, HELD, verdict.hold_ms)

    async def snooze(self, lease: Lease, verdict: Snooze, *, fetch_next: bool) -> Next | None:
        """Move the job to delayed for `after_ms`; this counts as no attempt."""
        return await self._delay(lease, max(1, verdict.after_ms), b"", fetch_next=fetch_next, spend=False)

    async def _delay(
        self, lease: Lease, after_ms: int, changes: bytes, *, fetch_next: bool, spend: bool
    ) -> Next | None:
        keys, scripts, calls = self._keys, self._shared.scripts, self._calls_for(lease)
        reply = await scripts.call(
            calls.scripts.delay, keys,
            keys.prefix, self._now_ms(), lease.job_id, lease.token, after_ms, "0" if spend else "1", changes,
            "1" if fetch_next else "0", calls.lease_options(lease.token),
            job=lease.job_id,
        )  # fmt: skip
        # Unlike moveToFinished, this script also returns 0 while a rate limit holds: the caller has to take again.
        found = self._settled(reply, lease, False)
        return None if self._is_stray(found, reply) and await self._take_in(found) else found

    async def release(self, lease: Lease) -> None:
        """Put the job back at the head of the queue, with the attempt that was broken off; this spends no attempt."""
        keys, scripts = self._keys, self._shared.scripts
        kept = () if lease.failed is None else (FIELD, attempts_with(lease, lease.failed))
        script = self._calls_for(lease).scripts.release
        reply = await scripts.call(script, keys, lease.job_id, lease.token, keys.key(lease.job_id), *kept)
        if isinstance(reply, int) and reply < 0:
            raise refused(reply, lease.job_id)

    async def count_stall(self, lease: Lease) -> bool:
        """Count that the worker which holds this job vanished; return True if the job has now stalled too often."""
        count = int(lease.fields.get(b"stc", b"0")) + 1
        reply = await self._shared.scripts.call(
            _COUNT_STALL, self._keys, lease.token, count, lease.job_id, job=lease.job_id
        )
        if reply < 0:
            raise refused(reply, lease.job_id)
        return count > self._rules.max_stalled_count

    async def extend(self, leases: Sequence[Lease]) -> set[bytes]:
        """Renew the locks of these leases, also of jobs whose lock has lapsed since; return those that are not ours."""
        keys, scripts = self._keys, self._shared.scripts
        tokens = pack_texts([lease.token for lease in leases])
        ids = pack_texts([lease.job_id for lease in leases])
        lost = set(await scripts.call(scripts.extend_locks, keys, keys.prefix, tokens, ids, self.lock_ms))
        return lost and await self._take_back([lease for lease in leases if lease.job_id in lost])

    async def _take_back(self, leases: Sequence[Lease]) -> set[bytes]:
        """Lock jobs again whose locks have lapsed; return the ids of those that are lost."""
        lost = set[bytes]()
        for first in range(0, len(leases), _TAKEN_BACK_AT_ONCE):
            told: list[bytes] = []
            for lease in leases[first : first + _TAKEN_BACK_AT_ONCE]:
                starts, begun = lease.fields.get(b"ats", b""), lease.fields.get(b"processedOn", b"")
                told += [lease.job_id, lease.token, starts, begun, (lease.options.group or "").encode()]
            lost.update(await self._shared.scripts.call(TAKE_BACK, self._keys, self.lock_ms, *told))
        return lost

    async def hand_over(self, lease: Lease, lock_ms: int) -> float | None:
        """Let the lock last for `lock_ms` from now, or longer if its holder has extended it; return for how long."""
        reply = await self._shared.scripts.call(
            _HAND_OVER, self._keys, lease.token, lock_ms, self.lock_ms, lease.job_id, job=lease.job_id
        )
        return None if reply < 0 else reply / 1000

    async def note_length(self, lease: Lease) -> None:
        """Record how long this lease is for `held`, if it has not the usual length."""
        if self.lock_ms == self._shared.lock_ms:
            return
        await self._shared.scripts.call(_NOTE_LENGTH, self._keys, lease.token, self.lock_ms, job=lease.job_id)

    async def schedule_next(self, lease: Lease) -> str | None:
        """Produce the next job of the scheduler that produced this one; return why if that is not possible."""
        return await self._shared.schedulers.produce_next(self.queue, lease.job_id, lease.fields)

    def _next(self, reply: Any, token: bytes) -> Next:
        flat, job_id, limit_ms, next_at_ms = reply[:_PARTS]
        if flat:
            return self._lease(job_id, token, fields_of(flat))
        if limit_ms or next_at_ms:
            # A rate limit is an integer, a delayed job's time a number as text
            return NoJob(int(limit_ms) / 1000, float(next_at_ms) / 1000)
        return NOTHING

    def _touch_parent(self, lease: Lease) -> None:
        """Record the queue of the job's parent: settling this job may move the parent to waiting."""
        parent = lease.fields.get(b"parentKey")
        if parent is None:
            return
        prefix = self._keys.prefix[: -len(self.queue.encode()) - 1]
        if parent.startswith(prefix):
            queue, _, _ = parent[len(prefix) :].partition(b":")
            self._shared.scripts.touched.add(b"%b%b:" % (prefix, queue))

    def _settled(self, reply: Any, lease: Lease, fetched: bool) -> Next | None:
        if isinstance(reply, list):
            self._count_held(reply)
            if not reply[0] and (self._passed_over(reply) or self._has_more(reply)):
                return None
            return self._next(reply, lease.token)
        if isinstance(reply, int) and reply < 0:
            raise refused(reply, lease.job_id)
        if reply is None or isinstance(reply, int):
            return NOTHING if fetched else None
        raise StoreError(f"BullMQ's script returned {reply!r} for job {lease.job_id!r}")
