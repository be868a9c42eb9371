"""One queue's jobs in memory, leased and settled as BullMQ's scripts do it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from toril.core.destination import Limiter
from toril.core.errors import ConnectionLost, JobRefused, LeaseLost, StoreError, StoreUnavailable
from toril.core.lease import LENGTH_FIELD, NOTHING, Lease, Next, NoJob
from toril.core.ports import Now
from toril.core.stored_job import read_options
from toril.core.verdict import Complete, Fail, Retry, Snooze
from toril.engine.ports import LeaseStore

T = TypeVar("T")
Mark = Callable[[str, float], None]


class _Break(msgspec.Struct):
    call: str | None
    carried_out: bool
    error: StoreError


class FakeLeaseStore:
    """The jobs of one queue. Each call is one atomic step; its answer comes a turn of the event loop later.

    Look at `waiting`, `delayed`, `active`, `completed`, `failed` and `released` to see what became of jobs;
    `calls` has the names of all calls in order. `break_next`, `go_away` and `hold_answers` make it fail, and
    `answer_after_s` may be set to a function that says how long each answer takes.

    Args:
        queue: its name, for the leases.
        now: the wall clock; delays, locks and rate limits follow it.
        lock_s: how long a lock lives.
        limiter: the worker's rate limit.
        max_stalled_count: how often a job may stall before it fails.
        mark: called as BullMQ leaves a marker: `FakeMarkerWaits.mark`.
    """

    def __init__(
        self,
        queue: str = "orders",
        *,
        now: Now,
        lock_s: float = 30.0,
        limiter: Limiter | None = None,
        max_stalled_count: int = 1,
        mark: Mark = lambda queue, at_s: None,
    ) -> None:
        self.queue = queue
        self.jobs: dict[bytes, dict[bytes, bytes]] = {}
        self.waiting: deque[bytes] = deque()
        self.delayed: dict[bytes, float] = {}
        self.active: dict[bytes, tuple[bytes, float]] = {}
        self.completed: dict[bytes, bytes] = {}
        self.failed: dict[bytes, str] = {}
        self.released: list[bytes] = []
        self.scheduled: list[bytes] = []
        self.unreadable: str | None = None
        self.pending_children: set[bytes] = set()
        self.calls: list[str] = []
        self.answer_after_s: Callable[[], float] = lambda: 0.0
        self._now = now
        self._lock_s = lock_s
        self._limiter = limiter
        self._max_stalled_count = max_stalled_count
        self._mark = mark
        self._started = 0
        self._limited_until = 0.0
        self._held_until = 0.0
        self._suspects: set[bytes] = set()
        self._away = False
        self._breaks: list[_Break] = []
        self._answering = asyncio.Event()
        self._answering.set()

    def add(
        self,
        job_id: str,
        *,
        opts: Mapping[str, object] | None = None,
        data: bytes = b"{}",
        delay_s: float = 0.0,
        fields: Mapping[bytes, bytes] | None = None,
    ) -> bytes:
        """Add a job at the end of the queue, or as a delayed one, with `fields` in its hash too; return its id."""
        key = job_id.encode()
        self.jobs[key] = {
            b"name": b"job",
            b"data": data,
            b"opts": msgspec.json.encode(opts or {"attempts": 0}),
            b"timestamp": b"%d" % (self._now() * 1000),
            **(fields or {}),
        }
        if delay_s > 0:
            self._delay(key, delay_s)
        else:
            self.waiting.append(key)
            self._mark(self.queue, 0.0)
        return key

    def steal(self, job_id: bytes, token: bytes = b"thief:1") -> None:
        """Let another worker's token hold an active job's lock."""
        self.active[job_id] = (token, self._now() + self._lock_s)

    def lapse(self, job_id: bytes) -> None:
        """Let an active job's lock end now."""
        self.active[job_id] = (self.active[job_id][0], 0.0)

    def use_limit_up(self) -> None:
        """Let other workers start as many jobs as the rate limit allows."""
        if self._limiter is not None:
            self._started, self._limited_until = self._limiter.max, self._now() + self._limiter.duration / 1000

    def lift_limit(self) -> None:
        """End the rate limit under way, as `removeRateLimitKey` does."""
        self._started, self._limited_until, self._held_until = 0, 0.0, 0.0

    def go_away(self) -> None:
        """Raise `StoreUnavailable` from every call from now on, and do nothing."""
        self._away = True

    def come_back(self) -> None:
        """Carry out calls again."""
        self._away = False

    def break_next(
        self, call: str | None = None, *, carried_out: bool, error: StoreError | None = None, times: int = 1
    ) -> None:
        """Let the next calls (of this name) raise an error, by default `ConnectionLost`, carried out or not."""
        self._breaks += [_Break(call, carried_out, error or ConnectionLost()) for _ in range(times)]

    def hold_answers(self) -> None:
        """Carry out calls, and hold the answers back."""
        self._answering.clear()

    def let_answers_go(self) -> None:
        """Send the answers that were held back."""
        self._answering.set()

    async def take(self, token: bytes) -> Next:
        """Lease the next job under `token`."""
        return await self._call("take", lambda: self._next(token))

    async def complete(self, lease: Lease, verdict: Complete, *, fetch_next: bool) -> Next | None:
        """Move the job to completed."""

        def step() -> Next | None:
            self._require(lease)
            if lease.job_id in self.pending_children:
                raise JobRefused("the job has pending children")
            self._end_attempt(lease)
            self.completed[lease.job_id] = verdict.returnvalue
            self.jobs[lease.job_id].update(zip(verdict.fields[::2], verdict.fields[1::2], strict=True))
            return self._next(lease.token) if fetch_next else None

        return await self._call("complete", step)

    async def retry(self, lease: Lease, verdict: Retry, *, fetch_next: bool) -> Next | None:
        """Move the job to waiting (which leases nothing in return), or to delayed."""

        def step() -> Next | None:
            self._require(lease)
            self._end_attempt(lease)
            self._note_failure(lease, verdict)
            self._hold(verdict)
            if verdict.after_ms <= 0:
                self.waiting.append(lease.job_id)
                self._mark(self.queue, 0.0)
                return None
            self._delay(lease.job_id, verdict.after_ms / 1000)
            return self._next(lease.token) if fetch_next else None

        return await self._call("retry", step)

    async def fail(self, lease: Lease, verdict: Fail, *, fetch_next: bool) -> Next | None:
        """Move the job to failed."""

        def step() -> Next | None:
            self._require(lease)
            self._end_attempt(lease)
            self._note_failure(lease, verdict)
            self._hold(verdict)
            self.failed[lease.job_id] = verdict.reason
            return self._next(lease.token) if fetch_next else None

        return await self._call("fail", step)

    async def snooze(self, lease: Lease, verdict: Snooze, *, fetch_next: bool) -> Next | None:
        """Move the job to delayed, spending no attempt."""

        def step() -> Next | None:
            self._require(lease)
            del self.active[lease.job_id]
            self._delay(lease.job_id, max(1, verdict.after_ms) / 1000)
            return self._next(lease.token) if fetch_next else None

        return await self._call("snooze", step)

    async def release(self, lease: Lease) -> None:
        """Give the job back to the head of the queue without spending an attempt."""

        def step() -> None:
            self._require(lease)
            del self.active[lease.job_id]
            self.waiting.appendleft(lease.job_id)
            self.released.append(lease.job_id)
            self._mark(self.queue, 0.0)

        await self._call("release", step)

    async def count_stall(self, lease: Lease) -> bool:
        """Count that the worker which holds this job vanished."""

        def step() -> bool:
            self._require(lease)
            count = int(lease.fields.get(b"stc", b"0")) + 1
            self.jobs[lease.job_id][b"stc"] = b"%d" % count
            return count > self._max_stalled_count

        return await self._call("count_stall", step)

    async def extend(self, leases: Sequence[Lease]) -> set[bytes]:
        """Renew the locks of these leases, also lapsed ones; return the ids of the jobs that are not ours."""

        def step() -> set[bytes]:
            lost = {lease.job_id for lease in leases if not self._may_renew(lease)}
            for lease in leases:
                if lease.job_id not in lost:
                    self.active[lease.job_id] = (lease.token, self._now() + self._lock_s)
                    self._suspects.discard(lease.job_id)
            return lost

        return await self._call("extend", step)

    async def hand_over(self, lease: Lease, lock_ms: int) -> float | None:
        """Let the lock last for `lock_ms` from now, or as long as its holder has asked for meanwhile."""

        def step() -> float | None:
            if not self._holds(lease):
                return None
            self.jobs[lease.job_id][LENGTH_FIELD.encode()] = b"%d:%b" % (lock_ms, lease.token)
            if self.active[lease.job_id][1] <= self._now() + self._lock_s:
                self.active[lease.job_id] = (lease.token, self._now() + lock_ms / 1000)
            return self.active[lease.job_id][1] - self._now()

        return await self._call("hand_over", step)

    async def left_s(self, lease: Lease) -> float | None:
        """Return for how many seconds the lock still holds; None if it is not ours."""
        return await self._call(
            "left_s", lambda: self.active[lease.job_id][1] - self._now() if self._holds(lease) else None
        )

    async def recover_stalled(self) -> list[bytes]:
        """Put jobs that were active at the last check, and have no lock, back to the head of the queue."""

        def step() -> list[bytes]:
            # In the order of their leases, and not of a set's, so that a run with the same steps ends the same.
            stalled = [job_id for job_id in self.active if job_id in self._suspects and self._lapsed(job_id)]
            for job_id in stalled:
                del self.active[job_id]
                count = int(self.jobs[job_id].get(b"stc", b"0")) + 1
                self.jobs[job_id][b"stc"] = b"%d" % count
                if count > self._max_stalled_count:
                    self.jobs[job_id][b"defa"] = b"job stalled more than allowable limit"
                self.waiting.appendleft(job_id)
                self._mark(self.queue, 0.0)
            self._suspects = set(self.active)
            return stalled

        return await self._call("recover_stalled", step)

    async def recover_abandoned(self) -> tuple[list[bytes], float]:
        """As `LeaseStore.recover_abandoned`."""
        found: list[bytes] = []
        for _ in range(2):
            if any(self._lapsed(job_id) for job_id in self.active):
                found += await self.recover_stalled()

        def step() -> tuple[list[bytes], float]:
            return found, max([0.0, *(until_s - self._now() for _, until_s in self.active.values())])

        return await self._call("recover_abandoned", step)

    async def adopt(self, tokens: Iterable[bytes]) -> list[Lease]:
        """Find active jobs locked by these tokens."""
        wanted = set(tokens)

        def step() -> list[Lease]:
            held = [(job_id, token) for job_id, (token, _) in self.active.items() if token in wanted]
            return [self._lease(job_id, token) for job_id, token in held if not self._lapsed(job_id)]

        return await self._call("adopt", step)

    async def schedule_next(self, lease: Lease) -> str | None:
        """Remember that the next iteration of the job's scheduler was asked for; return `unreadable`."""
        await self._call("schedule_next", lambda: self.scheduled.append(lease.job_id))
        return self.unreadable

    async def _call(self, name: str, step: Callable[[], T]) -> T:
        self.calls.append(name)
        broken = next((broken for broken in self._breaks if broken.call in (name, None)), None)
        if self._away:
            await asyncio.sleep(0)
            raise StoreUnavailable
        if broken is not None:
            self._breaks.remove(broken)
        done = step() if broken is None or broken.carried_out else None
        await asyncio.sleep(self.answer_after_s())
        await self._answering.wait()
        if broken is not None:
            raise broken.error
        return done  # type: ignore[return-value]

    def _hold(self, verdict: Retry | Fail) -> None:
        self._held_until = max(self._held_until, self._now() + verdict.hold_ms / 1000)

    def _promote(self, now: float) -> None:
        for job_id in [job_id for job_id, at_s in self.delayed.items() if at_s <= now]:
            del self.delayed[job_id]
            self.waiting.append(job_id)

    def _next(self, token: bytes) -> Next:
        now = self._now()
        self._promote(now)
        if now < self._held_until:
            return NoJob(retry_in_s=self._held_until - now)
        if self._limiter is not None and now < self._limited_until and self._started >= self._limiter.max:
            return NoJob(retry_in_s=self._limited_until - now)
        while self.waiting:
            job_id = self.waiting.popleft()
            if job_id in self.jobs:
                return self._start(job_id, token)
        return NoJob(next_at_s=min(self.delayed.values())) if self.delayed else NOTHING

    def _start(self, job_id: bytes, token: bytes) -> Lease:
        now = self._now()
        if self._limiter is not None:
            if now >= self._limited_until:
                self._started, self._limited_until = 0, now + self._limiter.duration / 1000
            self._started += 1
        fields = self.jobs[job_id]
        fields[b"ats"] = b"%d" % (int(fields.get(b"ats", b"0")) + 1)
        fields[b"processedOn"] = b"%d" % (now * 1000)
        self.active[job_id] = (token, now + self._lock_s)
        # As BullMQ does it: where there was one job there may be another.
        self._mark(self.queue, 0.0)
        return self._lease(job_id, token)

    def _lease(self, job_id: bytes, token: bytes) -> Lease:
        fields = dict(self.jobs[job_id])
        return Lease(
            queue=self.queue,
            job_id=job_id,
            token=token,
            fields=fields,
            options=read_options(fields[b"opts"]),
            attempts_made=int(fields.get(b"atm", b"0")),
        )

    def _lapsed(self, job_id: bytes) -> bool:
        return self.active[job_id][1] <= self._now()

    def _holds(self, lease: Lease) -> bool:
        held = self.active.get(lease.job_id)
        return held is not None and held[0] == lease.token and not self._lapsed(lease.job_id)

    def _may_renew(self, lease: Lease) -> bool:
        lapsed = lease.job_id in self.active and self._lapsed(lease.job_id)
        return self.jobs[lease.job_id][b"ats"] == lease.fields[b"ats"] if lapsed else self._holds(lease)

    def _require(self, lease: Lease) -> None:
        if not self._holds(lease):
            raise LeaseLost

    def _end_attempt(self, lease: Lease) -> None:
        del self.active[lease.job_id]
        fields = self.jobs[lease.job_id]
        fields[b"atm"] = b"%d" % (int(fields.get(b"atm", b"0")) + 1)

    def _note_failure(self, lease: Lease, verdict: Retry | Fail) -> None:
        fields = self.jobs[lease.job_id]
        traces = [*msgspec.json.decode(fields.get(b"stacktrace", b"[]"), type=list[str]), verdict.trace]
        fields[b"failedReason"] = verdict.reason.encode()
        fields[b"stacktrace"] = msgspec.json.encode(traces)

    def _delay(self, job_id: bytes, for_s: float) -> None:
        self.delayed[job_id] = self._now() + for_s
        self._mark(self.queue, min(self.delayed.values()))


if TYPE_CHECKING:
    _: type[LeaseStore] = FakeLeaseStore
