"""Leases jobs and settles them: take, extend, complete, fail, retry, delay, release, recover.

One `Leases` per queue and worker settings. Calls are BullMQ's scripts; what they return is told in the head of
each Lua file. Must never decide anything: the verdict comes from a destination. Called by `toril.engine`.
"""

from __future__ import annotations

import hmac
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import structlog

from toril.bull.hashless import passed_over
from toril.bull.keys import QueueKeys
from toril.bull.schedulers import Schedulers
from toril.bull.scripts import Script, Scripts, refused
from toril.bull.wire import fields_of, pack
from toril.core.destinations.base import LeaseRules
from toril.core.errors import LeaseLost, StoreError, WrongLockToken
from toril.core.lease import LENGTH_FIELD, NOTHING, Lease, Next, NoJob
from toril.core.stored_job import Fields, Keep, StoredOptions, read_options
from toril.core.verdict import Complete, Fail, Retry, Snooze

log = structlog.get_logger(__name__)

_pack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode
_traces = msgspec.json.Decoder(list[str]).decode
_KEEP_ALL = Keep(-1)
# BullMQ's metrics: one point per minute, for a week.
_NO_KEY = -2  # what PTTL says
_METRIC_POINTS = 7 * 24 * 60
# moveToFinished for a completed job: head, KEYS[12], rest of the head, then its eight arguments.
_COMPLETE = (
    b"%b$%d\r\n%b%b\r\n%b"
    b"$%d\r\n%b\r\n$%d\r\n%b\r\n$11\r\nreturnvalue\r\n$%d\r\n%b\r\n$9\r\ncompleted\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n"
)
_SCRIPT_KEYS = (
    "wait",
    "active",
    "prioritized",
    "events",
    "stalled",
    "limiter",
    "delayed",
    "paused",
    "meta",
    "pc",
)

# KEYS[1] lock, KEYS[2] the job's hash; ARGV[1] token, ARGV[2] how long (milliseconds). Notes how long the lease is, if
# the lock is this token's. Returns 0, or -1 when it is another's or nobody's.
_NOTE_LENGTH = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[2], '%b', ARGV[2] .. ':' .. ARGV[1]) end
return 0
""" % LENGTH_FIELD.encode()
# In one step, since the holder may ask for longer at any moment: that must not be taken from it.
# KEYS[1] lock, KEYS[2] the job's hash, KEYS[3] stalled; ARGV[1] token, ARGV[2] how long (milliseconds), ARGV[3] what is
# longer than this the holder has asked for, ARGV[4] job id. Returns for how long the lock holds, or -1 when it is
# another's or nobody's.
_HAND_OVER = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[2], '%b', ARGV[2] .. ':' .. ARGV[1]) end
local left = redis.call('PTTL', KEYS[1])
if left > tonumber(ARGV[3]) then return left end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SREM', KEYS[3], ARGV[4])
return tonumber(ARGV[2])
""" % LENGTH_FIELD.encode()
# Sets the count to what it is for this lease, so that a call whose answer got lost can be made again.
# KEYS[1] lock, KEYS[2] the job's hash, KEYS[3] events; ARGV[1] token, ARGV[2] the new count, ARGV[3] job id. Returns 0,
# or BullMQ's -2 (there is no lock) or -6 (it is another worker's).
_COUNT_STALL = b"""
local token = redis.call('GET', KEYS[1])
if token ~= ARGV[1] then return token and -6 or -2 end
local count = tonumber(redis.call('HGET', KEYS[2], 'stc') or '0')
if count < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[2], 'stc', ARGV[2])
  redis.call('XADD', KEYS[3], '*', 'event', 'stalled', 'jobId', ARGV[3])
end
return 0
"""


class OptionsCache:
    """Parsed job options by their stored text: jobs of one kind mostly share it."""

    def __init__(self, size: int = 4096) -> None:
        self._known: OrderedDict[bytes, StoredOptions] = OrderedDict()
        self._size = size

    def read(self, stored: bytes) -> StoredOptions:
        """`read_options`, remembered."""
        options = self._known.get(stored)
        if options is None:
            options = read_options(stored)
            if len(stored) < 1024:  # an id or a deduplication in it makes it unique, and a large one costs memory
                self._known[stored] = options
                if len(self._known) > self._size:
                    self._known.popitem(last=False)
        return options


class LeaseBook:
    """Makes the `Leases` of each queue; they share scripts, the options cache and the job schedulers."""

    def __init__(
        self,
        scripts: Scripts,
        schedulers: Schedulers,
        prefix: str,
        lock_ms: int,
        stalled_ms: int,
        now: Callable[[], float],
    ) -> None:
        self.scripts = scripts
        self.schedulers = schedulers
        self.prefix = prefix
        self.lock_ms = lock_ms
        self.stalled_ms = stalled_ms
        self.now = now
        self.options = OptionsCache()
        self.hand_over = Script("handOver-3.lua", _HAND_OVER)
        self.note_length = Script("noteLength-2.lua", _NOTE_LENGTH)
        self.count_stall = Script("countStall-3.lua", _COUNT_STALL)

    def of(self, queue: str, rules: LeaseRules, lock_ms: int | None = None, worker: str | None = None) -> Leases:
        """The leases of one queue, under a worker's limiter and retention; of another length, and by name, if given."""
        return Leases(self, queue, rules, self.lock_ms if lock_ms is None else lock_ms, worker)


class Leases:
    """Leases and settles the jobs of one queue. Holds no connection and no state of jobs."""

    __slots__ = ("_book", "_heads", "_keys", "_limiter", "_rules", "_worker", "lock_ms", "queue")

    def __init__(self, book: LeaseBook, queue: str, rules: LeaseRules, lock_ms: int, worker: str | None) -> None:
        self._book = book
        self._rules = rules
        self._keys = QueueKeys(book.prefix, queue)
        self._heads: _Heads | None = None
        self.lock_ms = lock_ms
        self._worker = worker
        self._limiter = (
            None if rules.limiter is None else {"max": rules.limiter.max, "duration": rules.limiter.duration}
        )
        self.queue = queue

    async def _run(self, script: Script, packed: bytes) -> Any:
        return await self._book.scripts.run(self._keys.prefix, script, packed)

    def _now_ms(self) -> bytes:
        return b"%d" % (self._book.now() * 1000)

    def _head(self) -> _Heads:
        # Built at the first lease: a thousand idle workers keep a thousand of these small.
        if self._heads is None:
            self._heads = _Heads(self._keys, self._book.scripts, self._limiter, self.lock_ms, self._worker)
        return self._heads

    async def take(self, token: bytes) -> Next:
        """Lease the next job under `token`."""
        heads = self._head()
        while True:
            reply = await self._run(self._book.scripts.move_to_active, heads.take(self._now_ms(), token))
            if not self._passed_over(reply):
                return self._next(reply, token)

    def _passed_over(self, reply: Any) -> bool:
        """True where the script dropped an id without a hash; it has looked no further then."""
        job_id = passed_over(reply)
        if job_id is not None:
            log.warning("lease.job_without_hash", queue=self.queue, job_id=job_id.decode(errors="replace"))
        return job_id is not None

    async def complete(self, lease: Lease, verdict: Complete, *, fetch_next: bool) -> Next | None:
        """Move the job to completed; the next one under the same token if asked to."""
        self._touch_parent(lease)
        kept = lease.options.keep_completed or self._rules.keep_completed or _KEEP_ALL
        heads = self._head()
        if verdict.fields:
            packed = heads.complete_with_fields(lease, self._now_ms(), verdict, self._finish(lease, kept), fetch_next)
            reply = await self._run(self._book.scripts.move_to_finished, packed)
            return self._settled(reply, lease, fetch_next)
        packed = heads.complete(lease, self._now_ms(), verdict.returnvalue, self._finish(lease, kept), fetch_next)
        reply = await self._run(self._book.scripts.move_to_finished, packed)
        return self._settled(reply, lease, fetch_next)

    async def fail(self, lease: Lease, verdict: Fail, *, fetch_next: bool) -> Next | None:
        """Move the job to failed; the next one under the same token if asked to."""
        self._touch_parent(lease)
        kept = lease.options.keep_failed or self._rules.keep_failed or _KEEP_ALL
        keys = self._keys
        script = self._book.scripts.move_to_finished
        head = script.head(
            (
                *keys.keys(*_SCRIPT_KEYS, "failed"),
                keys.key(lease.job_id),
                *keys.keys("metrics:failed", "marker"),
            ),
            9,
        )
        arguments = pack(
            lease.job_id, self._now_ms(), "failedReason", verdict.reason, "failed", "1" if fetch_next else "",
            keys.prefix, self._finish(lease, kept), failure_fields(lease, verdict),
        )  # fmt: skip
        reply = await self._run(script, head + _without_count(arguments))
        return self._settled(reply, lease, fetch_next)

    async def retry(self, lease: Lease, verdict: Retry, *, fetch_next: bool) -> Next | None:
        """Move the job to delayed for `after_ms`, or to waiting at once (which leases nothing in return)."""
        keys, scripts = self._keys, self._book.scripts
        changes = failure_fields(lease, verdict)
        if verdict.after_ms <= 0:
            head = scripts.retry_job.head(
                (*keys.keys("active", "wait", "paused"), keys.key(lease.job_id),
                 *keys.keys("meta", "events", "delayed", "prioritized", "pc", "marker", "stalled")), 6
            )  # fmt: skip
            push = "RPUSH" if lease.options.lifo else "LPUSH"
            arguments = pack(keys.prefix, self._now_ms(), push, lease.job_id, lease.token, changes)
            return self._settled(await self._run(scripts.retry_job, head + _without_count(arguments)), lease, False)
        return await self._delay(lease, verdict.after_ms, changes, fetch_next=fetch_next, spend=True)

    async def snooze(self, lease: Lease, verdict: Snooze, *, fetch_next: bool) -> Next | None:
        """Move the job to delayed for `after_ms`; no attempt is spent."""
        return await self._delay(lease, max(1, verdict.after_ms), b"", fetch_next=fetch_next, spend=False)

    async def _delay(
        self, lease: Lease, after_ms: int, changes: bytes, *, fetch_next: bool, spend: bool
    ) -> Next | None:
        keys, scripts = self._keys, self._book.scripts
        head = scripts.move_to_delayed.head(
            (*keys.keys("marker", "active", "prioritized", "delayed"), keys.key(lease.job_id),
             *keys.keys("events", "meta", "stalled", "wait", "limiter", "pc")), 9
        )  # fmt: skip
        arguments = pack(
            keys.prefix, self._now_ms(), lease.job_id, lease.token, after_ms, "0" if spend else "1", changes,
            "1" if fetch_next else "0", self._head().lease_options(lease.token),
        )  # fmt: skip
        reply = await self._run(scripts.move_to_delayed, head + _without_count(arguments))
        # Unlike moveToFinished, this script says 0 also where a rate limit holds: whoever hears 0 has to look again.
        return self._settled(reply, lease, False)

    async def release(self, lease: Lease) -> None:
        """Give the job back to the head of the queue; no attempt is spent."""
        keys, scripts = self._keys, self._book.scripts
        head = scripts.release_job.head(
            keys.keys("active", "wait", "stalled", "paused", "meta", "limiter", "prioritized", "marker", "events"),
            3,
        )
        arguments = pack(lease.job_id, lease.token, keys.key(lease.job_id))
        reply = await self._run(scripts.release_job, head + _without_count(arguments))
        if isinstance(reply, int) and reply < 0:
            raise refused(reply, lease.job_id)

    async def count_stall(self, lease: Lease) -> bool:
        """Count that the worker which holds this job vanished; whether the job has now stalled too often."""
        keys, script = self._keys, self._book.count_stall
        names = (keys.key(lease.job_id + b":lock"), keys.key(lease.job_id), keys.key("events"))
        count = int(lease.fields.get(b"stc", b"0")) + 1
        reply = await self._run(script, script.packed(names, lease.token, count, lease.job_id))
        if reply < 0:
            raise refused(reply, lease.job_id)
        return count > self._rules.max_stalled_count

    async def extend(self, leases: Sequence[Lease]) -> set[bytes]:
        """Renew the locks of these leases in one call; returns the ids of those that are not ours any more."""
        keys, scripts = self._keys, self._book.scripts
        head = scripts.extend_locks.head(keys.keys("stalled"), 4)
        tokens = _pack_texts([lease.token for lease in leases])
        ids = _pack_texts([lease.job_id for lease in leases])
        arguments = pack(keys.prefix, tokens, ids, self.lock_ms)
        return set(await self._run(scripts.extend_locks, head + _without_count(arguments)))

    async def hand_over(self, lease: Lease, lock_ms: int) -> float | None:
        """Let the lock last for `lock_ms` from now, or as long as its holder has asked for meanwhile."""
        keys, script = self._keys, self._book.hand_over
        names = (keys.key(lease.job_id + b":lock"), keys.key(lease.job_id), keys.key("stalled"))
        reply = await self._run(script, script.packed(names, lease.token, lock_ms, self.lock_ms, lease.job_id))
        return None if reply < 0 else reply / 1000

    async def note_length(self, lease: Lease) -> None:
        """Let `held` know how long this lease is, where that is another time than usual."""
        if self.lock_ms == self._book.lock_ms:
            return
        keys, script = self._keys, self._book.note_length
        names = (keys.key(lease.job_id + b":lock"), keys.key(lease.job_id))
        await self._run(script, script.packed(names, lease.token, self.lock_ms))

    async def left_s(self, lease: Lease) -> float | None:
        """For how long the lock holds yet; None when it is not ours any more."""
        lock = self._keys.key(lease.job_id + b":lock")
        link = self._book.scripts.links.of(self._keys.prefix)
        token, left_ms = await link.pipeline([pack("GET", lock), pack("PTTL", lock)])
        return max(0, left_ms) / 1000 if token == lease.token else None

    async def held(self, job_id: bytes, token: bytes) -> Lease:
        """The lease of a job that this token holds.

        Raises:
            WrongLockToken: another one holds it.
            LeaseLost: none does; the error says which state the job is in.
        """
        keys, scripts = self._keys, self._book.scripts
        lock, flat = await scripts.links.of(keys.prefix).pipeline(
            [pack("GET", keys.key(job_id + b":lock")), pack("HGETALL", keys.key(job_id))]
        )
        if lock is None:
            parts = ("completed", "failed", "delayed", "active", "wait", "paused", "waiting-children", "prioritized")
            state = await scripts.call(scripts.get_state, keys, keys.keys(*parts), job_id)
            raise LeaseLost(state=state.decode())
        if not hmac.compare_digest(lock, token):
            raise WrongLockToken
        return self._lease(job_id, token, fields_of(flat))

    async def recover_lapsed(self, within_ms: int) -> list[bytes]:
        """The stalled check, more often than BullMQ's workers make it: for jobs whose lease nobody renews."""
        keys = self._keys
        link = self._book.scripts.links.of(keys.prefix)
        if await link.call("PTTL", keys.key("stalled-check")) > within_ms:
            await link.call("DEL", keys.key("stalled-check"))
        return await self.recover_stalled(within_ms)

    async def recover_stalled(self, within_ms: int | None = None) -> list[bytes]:
        """BullMQ's stalled check: jobs without a lock go back to waiting. Runs once per interval fleet-wide."""
        keys, scripts = self._keys, self._book.scripts
        stalled_ms = self._book.stalled_ms if within_ms is None else within_ms
        head = scripts.move_stalled.head(
            keys.keys("stalled", "wait", "active", "stalled-check", "meta", "paused", "marker", "events", "repeat"),
            4,
        )
        arguments = pack(self._rules.max_stalled_count, keys.prefix, self._now_ms(), stalled_ms)
        stalled: list[bytes] = await self._run(scripts.move_stalled, head + _without_count(arguments))
        return stalled

    async def recover_abandoned(self) -> tuple[list[bytes], float]:
        """Put jobs that are active without a lock back to waiting at once; and how long the locks of the others hold.

        BullMQ's check takes only what the check before has seen, so it is made twice where that is needed. Whoever held
        such a job cannot settle it any more: its lock is set and removed in the same steps that move it.
        """
        keys = self._keys
        link = self._book.scripts.links.of(keys.prefix)
        ids: list[bytes] = await link.call("LRANGE", keys.key("active"), 0, -1)
        if not ids:
            return [], 0.0
        left = dict(
            zip(ids, await link.pipeline([pack("PTTL", keys.key(job_id + b":lock")) for job_id in ids]), strict=True)
        )
        abandoned = {job_id for job_id, left_ms in left.items() if left_ms == _NO_KEY}
        found: list[bytes] = []
        for _ in range(2):
            if abandoned.issubset(found):
                break
            await link.call("DEL", keys.key("stalled-check"))
            found += await self.recover_stalled()
        return found, max(0, *left.values()) / 1000

    async def adopt(self, tokens: Iterable[bytes]) -> list[Lease]:
        """Find active jobs that are locked by these tokens."""
        wanted = set(tokens)
        keys = self._keys
        link = self._book.scripts.links.of(keys.prefix)
        ids: list[bytes] = await link.call("LRANGE", keys.key("active"), 0, -1)
        if not ids:
            return []
        locks = await link.pipeline([pack("GET", keys.key(job_id + b":lock")) for job_id in ids])
        held = [(job_id, token) for job_id, token in zip(ids, locks, strict=True) if token in wanted]
        if not held:
            return []
        hashes = await link.pipeline([pack("HGETALL", keys.key(job_id)) for job_id, _ in held])
        return [
            self._lease(job_id, token, fields_of(flat))
            for (job_id, token), flat in zip(held, hashes, strict=True)
            if flat
        ]

    async def schedule_next(self, lease: Lease) -> str | None:
        """Produce the next iteration of the job scheduler that this job came from; returns why that is not possible."""
        return await self._book.schedulers.produce_next(self.queue, lease.job_id, lease.fields)

    def _lease(self, job_id: bytes, token: bytes, fields: Fields) -> Lease:
        made = fields.get(b"atm")
        return Lease(
            queue=self.queue,
            job_id=job_id,
            token=token,
            fields=fields,
            options=self._book.options.read(fields.get(b"opts", b"{}")),
            attempts_made=int(made) if made else 0,
        )

    def _next(self, reply: Any, token: bytes) -> Next:
        flat, job_id, limit_ms, next_at_ms = reply
        if flat:
            return self._lease(job_id, token, dict(zip(flat[::2], flat[1::2], strict=True)))
        if limit_ms or next_at_ms:
            # A rate limit comes as an integer, a delayed job's time as a number in text
            return NoJob(int(limit_ms) / 1000, float(next_at_ms) / 1000)
        return NOTHING

    def _touch_parent(self, lease: Lease) -> None:
        """What becomes of this job may make its parent wait, in that one's queue."""
        parent = lease.fields.get(b"parentKey")
        prefix = self._keys.prefix[: -len(self.queue.encode()) - 1]
        if parent is not None and parent.startswith(prefix):
            queue, _, _ = parent[len(prefix) :].partition(b":")
            self._book.scripts.touched.add(b"%b%b:" % (prefix, queue))

    def _settled(self, reply: Any, lease: Lease, fetched: bool) -> Next | None:
        if isinstance(reply, list):
            return None if self._passed_over(reply) else self._next(reply, lease.token)
        if isinstance(reply, int) and reply < 0:
            raise refused(reply, lease.job_id)
        if reply is None or isinstance(reply, int):
            return NOTHING if fetched else None
        raise StoreError(f"BullMQ's script returned {reply!r} for job {lease.job_id!r}")

    def _finish(self, lease: Lease, kept: Keep) -> bytes:
        options = lease.options
        return self._head().finish_options(lease.token, kept, options)


class _Heads:
    """The unchanging parts of a queue's hot calls."""

    __slots__ = (
        "_complete_after",
        "_complete_before",
        "_finish",
        "_limiter",
        "_lock_ms",
        "_prefix",
        "_take",
        "_tokens",
        "_with_fields_before",
        "_worker",
    )

    def __init__(
        self, keys: QueueKeys, scripts: Scripts, limiter: dict[str, int] | None, lock_ms: int, worker: str | None
    ) -> None:
        self._worker = {} if worker is None else {"name": worker}
        self._limiter = limiter
        self._lock_ms = lock_ms
        self._prefix = keys.prefix
        prefix = b"$%d\r\n%b\r\n" % (len(keys.prefix), keys.prefix)
        self._take = scripts.move_to_active.head(keys.keys(*_SCRIPT_KEYS, "marker"), 3) + prefix
        # KEYS[12] is the job's own key, so the head is cut in two around it.
        head = scripts.move_to_finished.head(
            (*keys.keys(*_SCRIPT_KEYS, "completed"), b"\0", *keys.keys("metrics:completed", "marker")), 8
        )
        before, _, after = head.partition(b"$1\r\n\0\r\n")
        self._complete_before, self._complete_after = before, after
        # The same call with a ninth argument: one more of everything that it consists of.
        count, _, rest = before.partition(b"\r\n")
        self._with_fields_before = b"*%d\r\n%b" % (int(count[1:]) + 1, rest)
        # The packed options of a take and of a settle, by token and retention: a slot keeps its token.
        self._tokens: dict[bytes, bytes] = {}
        self._finish: dict[tuple[bytes, Keep, int, tuple[bool, ...]], bytes] = {}

    def lease_options(self, token: bytes) -> bytes:
        """What `moveToActive` wants to know, packed."""
        options = {"token": token.decode(), "lockDuration": self._lock_ms, "limiter": self._limiter}
        return _pack(options | self._worker)

    def take(self, now_ms: bytes, token: bytes) -> bytes:
        """The call that leases the next job."""
        options = self.lease_options(token)
        return b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (self._take, len(now_ms), now_ms, len(options), options)

    def complete_with_fields(
        self, lease: Lease, now_ms: bytes, verdict: Complete, options: bytes, fetch_next: bool
    ) -> bytes:
        """The call that completes a job and writes more fields of its hash."""
        call = self.complete(lease, now_ms, verdict.returnvalue, options, fetch_next, self._with_fields_before)
        fields = _pack_texts(verdict.fields)
        return b"%b$%d\r\n%b\r\n" % (call, len(fields), fields)

    def complete(
        self,
        lease: Lease,
        now_ms: bytes,
        returnvalue: bytes,
        options: bytes,
        fetch_next: bool,
        before: bytes | None = None,
    ) -> bytes:
        """The call that completes a job."""
        job_id, prefix = lease.job_id, self._prefix
        return _COMPLETE % (
            before or self._complete_before,
            len(prefix) + len(job_id), prefix, job_id,
            self._complete_after,
            len(job_id), job_id,
            len(now_ms), now_ms,
            len(returnvalue), returnvalue,
            b"$1\r\n1\r\n" if fetch_next else b"$0\r\n\r\n",
            len(prefix), prefix,
            len(options), options,
        )  # fmt: skip

    def finish_options(self, token: bytes, kept: Keep, options: StoredOptions) -> bytes:
        """What `moveToFinished` wants to know, packed."""
        key = (token, kept, options.attempts, options.on_failure)
        packed = self._finish.get(key)
        if packed is None:
            fail_parent, continue_parent, ignore, remove = options.on_failure
            packed = _pack(
                {
                    "token": token.decode(),
                    "keepJobs": kept.as_packed(),
                    "limiter": self._limiter,
                    "lockDuration": self._lock_ms,
                    "attempts": options.attempts,
                    "maxMetricsSize": _METRIC_POINTS,
                    "fpof": fail_parent,
                    "cpof": continue_parent,
                    "idof": ignore,
                    "rdof": remove,
                }
            )
            if len(self._finish) > 512:
                self._finish.clear()
            self._finish[key] = packed
        return packed


def _pack_texts(texts: Sequence[bytes]) -> bytes:
    """A MessagePack array of strings that need not be UTF-8: any producer may choose any bytes as a job's id."""
    packed = [struct.pack(">BI", 0xDD, len(texts))]
    packed.extend(struct.pack(">BI", 0xDB, len(text)) + text for text in texts)
    return b"".join(packed)


def _without_count(packed: bytes) -> bytes:
    """Packed arguments without the count in front, to stand behind a `Script.head`."""
    return packed.partition(b"\r\n")[2]


def failure_fields(lease: Lease, verdict: Retry | Fail) -> bytes:
    """The job's fields that a failed attempt changes, packed: the reason, and one more stack trace."""
    try:
        traces = _traces(lease.fields.get(b"stacktrace", b"[]"))
    except (msgspec.DecodeError, UnicodeDecodeError):
        traces = []
    traces.append(verdict.trace)
    limit = lease.options.stack_trace_limit
    if limit is not None:
        traces = traces[-limit:] if limit else []
    return _pack(["failedReason", verdict.reason, "stacktrace", _json(traces).decode()])
