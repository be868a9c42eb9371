"""Leases jobs to workers that ask for them over HTTP, and settles those jobs by their lock tokens.

The workers renew their locks themselves. A job whose lease ends goes back to its queue within a few seconds and counts
as stalled, as with any BullMQ worker: the instances share a sweep over the queues that have such leases.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from toril.core.destination import LeaseRules, RandomSource
from toril.core.errors import ConnectionLost, JobRefused, LeaseLost, StoreError, StoreTimeout, WrongLockToken
from toril.core.http.headers import Header
from toril.core.lease import NOTHING, Lease, NoJob
from toril.core.made_attempt import Ending, broken_off_attempt, failed_attempt
from toril.core.metrics import word
from toril.core.verdict import Complete, Fail, Retry, Settlement, keep_for_scheduler
from toril.engine.handovers import Handovers
from toril.engine.lock_tokens import owner_of
from toril.engine.ports import LeasedQueues
from toril.engine.shared_services import SharedServices
from toril.queues.ports import PullStore, PullStores
from toril.queues.rules.pull import Action, Extended, Failed, Finished, LeaseRequest, Released

log = structlog.get_logger(__name__)

_SWEEP_S = 1.5
_GROUP = 25
_POLL_S = 10.0
_LONGEST_LIMIT_S = 30.0
_KIND = "pull_worker"
_PUSHED = "push_worker"
_LEFT_AT: dict[type, tuple[str, ...]] = {
    Complete: ("completed", "unknown"),
    Fail: ("failed", "unknown"),
    Retry: ("delayed",),
}
"""The state in which each verdict leaves its job; BullMQ's `unknown` is that of a job that is removed when it ends."""


class Pull:
    """One request for jobs while it is served. `hang_up` is called when its caller is gone."""

    def __init__(self, queue: str, request: LeaseRequest) -> None:
        self.queue = queue
        self.request = request
        self.over = False
        self.news = asyncio.Event()
        self.due_at_s = math.inf

    def hang_up(self) -> None:
        """Stop: take no more jobs."""
        self.over = True
        self.news.set()

    def wake(self, at_s: float) -> None:
        """Look for jobs after a marker was popped: they wait now (0), or from `at_s` on."""
        self.due_at_s = min(self.due_at_s, at_s)
        self.news.set()


Rules = Callable[[str], LeaseRules]


class Pulls:
    """The pull workers of one process.

    Args:
        stores: lease and settle.
        leased: the queues with leases that no instance renews.
        shared: the services that consumers have, too.
        handovers: told of jobs that are settled here.
        rules: returns the lease rules of a queue, by its registered worker.
        random: for the jitter of backoffs.
    """

    def __init__(
        self,
        stores: PullStores,
        leased: LeasedQueues,
        shared: SharedServices,
        handovers: Handovers,
        rules: Rules,
        random: RandomSource,
    ) -> None:
        self._measures, self._tracing = shared.measures, shared.tracing
        self._stores = stores
        self._leased = leased
        self._waits = shared.waits
        self._handovers = handovers
        self._rules = rules
        self.tokens = shared.tokens
        self._now = shared.now
        self._random = random
        self._waiting: set[Pull] = set()
        self._closed = False

    def close(self) -> None:
        """End all requests that wait, because the instance shuts down."""
        self._closed = True
        for pull in self._waiting:
            pull.hang_up()

    def limit_lifted(self, queue: str) -> None:
        """Let the requests for jobs of a queue look again, because a rate limit of it was removed."""
        for pull in self._waiting:
            if pull.queue == queue:
                pull.wake(0.0)

    def begin(self, queue: str, request: LeaseRequest) -> Pull:
        """Return a request for jobs, to be passed to `lease`."""
        return Pull(queue, request)

    async def lease(self, pull: Pull) -> list[Lease]:
        """Return jobs as soon as there is one, up to the number asked for; none when the time is over."""
        request = pull.request
        store = self._stores.of(pull.queue, self._rules(pull.queue), request.lock_ms, request.worker)
        until = asyncio.get_running_loop().time() + request.wait_ms / 1000
        self._waiting.add(pull)
        try:
            while not self._closed:
                # Noted before a job is taken: if this process dies in between, the lease is found all the same.
                await self._leased.note(pull.queue, self._now() + request.lock_ms / 1000)
                leases, nothing = await self._take(store, request.count)
                if leases and pull.over:
                    for lease in leases:
                        with suppress(LeaseLost):  # it has run out meanwhile, so its job comes back by itself
                            await store.release(lease)
                    return []
                if leases or pull.over or not await self._wait(pull, nothing, until):
                    return leases
            return []
        finally:
            self._waiting.discard(pull)
            if pull.due_at_s < math.inf:
                # It learned of jobs from a marker, which is gone: another worker has to know.
                self._waits.pass_on(pull.queue, pull.due_at_s)

    async def _wait(self, pull: Pull, nothing: NoJob, until: float) -> bool:
        """Wait until it is worth looking again; return False when the time is over."""
        loop = asyncio.get_running_loop()
        look_at = loop.time() + (min(nothing.retry_in_s, _LONGEST_LIMIT_S) if nothing.retry_in_s else _POLL_S)
        while loop.time() < until and not pull.over:
            due_in_s = pull.due_at_s - self._now()
            if due_in_s <= 0:
                pull.due_at_s = math.inf
                return True
            if loop.time() >= look_at:
                return True
            pull.news.clear()
            if not nothing.retry_in_s:  # under a rate limit, markers say nothing
                self._waits.watch(pull.queue, pull.wake)
            try:
                # A millisecond late rather than early: BullMQ promotes a delayed job in the millisecond of its time.
                async with asyncio.timeout(max(0.0, min(until, look_at, loop.time() + due_in_s + 0.001) - loop.time())):
                    await pull.news.wait()
            except TimeoutError:
                pass
            finally:
                self._waits.unwatch(pull.queue, pull.wake)
        return False

    async def _take(self, store: PullStore, count: int) -> tuple[list[Lease], NoJob]:
        """Take up to `count` jobs: the first one, then the others all at once."""
        first = await self._take_one(store)
        if isinstance(first, NoJob):
            return [], first
        leases = [first]
        if count > 1:
            async with asyncio.TaskGroup() as tasks:
                others = [tasks.create_task(self._take_another(store)) for _ in range(count - 1)]
            leases += [found for other in others if isinstance(found := other.result(), Lease)]
        return leases, NOTHING

    async def _take_another(self, store: PullStore) -> Lease | NoJob:
        try:
            return await self._take_one(store)
        except StoreError as exc:  # the caller gets what was taken
            log.debug("pull.take_failed", error=exc.message)
            return NOTHING

    async def _take_one(self, store: PullStore) -> Lease | NoJob:
        while True:
            found = await store.take(self.tokens.made(store.queue, str(uuid.uuid4())))
            if isinstance(found, NoJob):
                return found
            try:
                if await self._may_be_given(store, found):
                    await self._note_length(store, found)
                    if self._tracing is not None:
                        self._tracing.leased(found)
                    self._measures.began((_KIND, found.queue), found)
                    return found
            except JobRefused as exc:
                # It stays leased until its lease ends; the others must not wait for it.
                log.warning(
                    "pull.refused", queue=found.queue, job_id=found.job_id.decode(errors="replace"), error=exc.message
                )

    async def _note_length(self, store: PullStore, lease: Lease) -> None:
        """Store how long the lease is, for an extension without a length. An error does not matter to the job."""
        try:
            await store.note_length(lease)
        except StoreError as exc:
            log.debug("pull.length_unknown", queue=lease.queue, error=exc.message)

    async def _may_be_given(self, store: PullStore, lease: Lease) -> bool:
        """Produce the next iteration of the job's scheduler; return False if the job must not run, and is settled."""
        if b"rjk" in lease.fields and (fault := await store.schedule_next(lease)) is not None:
            await store.snooze(lease, keep_for_scheduler(fault), fetch_next=False)
            return False
        deferred = lease.fields.get(b"defa")
        if not deferred:
            return True
        # A child of it failed, or it stalled too often.
        reason = deferred.decode(errors="replace")
        await store.fail(lease, Fail(reason, f"UnrecoverableError: {reason}"), fetch_next=False)
        return False

    async def settle(
        self, queue: str, job_id: str, token: bytes, action: Action, trace: Sequence[Header] | None = None
    ) -> None:
        """Settle, extend or release a job for the worker that holds this token.

        `trace` is the context of the request that asks for it, where that is traced.

        Raises:
            LeaseLost: the job is not locked, and nothing was written. The error has the job's state if the worker once
                held it; to all others the state is `unknown`, as for a job that does not exist.
            WrongLockToken: another worker has it.
            JobRefused: it cannot complete, because of its children.
        """
        lock_ms = action.lock_ms if isinstance(action, Extended) else None
        store = self._stores.of(queue, self._rules(queue), lock_ms)
        try:
            lease = await store.held(job_id.encode(errors="replace"), token)
        except LeaseLost:
            if self.tokens.knows(queue, token):
                raise
            # Others must not learn whether the job or the queue exists; `unknown` is BullMQ's word for both.
            raise LeaseLost(state="unknown") from None
        if lock_ms is None and isinstance(action, Extended):
            store = self._stores.of(queue, self._rules(queue), lease.length_ms)
        verdict = action.verdict(lease, self._random) if isinstance(action, Finished | Failed) else None
        self._keep_made(lease, action, verdict)
        if self._tracing is None or isinstance(action, Extended):
            await self._written(store, lease, action, verdict)
        else:
            # The span of a job that was handed over has ended then.
            made = None if owner_of(lease.token) else self._tracing.leased(lease)
            writing = self._written(store, lease, action, verdict)
            name = "Release" if verdict is None else type(verdict).__name__
            await self._tracing.settlement(lease, name, writing, trace or ())
            if made is not None:
                made.end(error="worker_error" if isinstance(action, Failed) else None)
        if not isinstance(action, Extended):
            self._measure(lease, action, verdict)
            await self._handovers.settled(lease)

    async def _written(self, store: PullStore, lease: Lease, action: Action, verdict: Settlement | None) -> None:
        """Write it, and again where the answer of Redis is lost; a lock that has lapsed meanwhile is taken back."""
        tried = taken_back = False
        while True:
            try:
                await self._write(store, lease, action, verdict)
            except (ConnectionLost, StoreTimeout):
                # It may have been written. Trying again is safe, and tells: it is written only while the lock is there.
                if tried:
                    raise
                tried = True
            except LeaseLost:
                if not tried:
                    raise
                if taken_back or await store.extend([lease]):
                    await _check_written(store, lease, action, verdict)
                    break
                taken_back = True
            else:
                break

    async def _write(self, store: PullStore, lease: Lease, action: Action, verdict: Settlement | None) -> None:
        match action, verdict:
            case Extended(), _:
                await self._leased.note(lease.queue, self._now() + store.lock_ms / 1000)
                if await store.extend([lease]):
                    raise LeaseLost
            case Released(), _:
                await store.release(lease)
            case _, Complete():
                await store.complete(lease, verdict, fetch_next=False)
            case _, Retry():
                await store.retry(lease, verdict, fetch_next=False)
            case _, Fail():
                await store.fail(lease, verdict, fetch_next=False)

    def _keep_made(self, lease: Lease, action: Action, verdict: Settlement | None) -> None:
        """Keep an attempt that failed, or whose job is given back, with its job, as its worker reports it."""
        if not isinstance(verdict, Retry | Fail) and not isinstance(action, Released):
            return
        kind, now_s = _PUSHED if owner_of(lease.token) else _KIND, self._now()
        lease.failed = broken_off_attempt(lease.attempt, lease.fields, kind, now_s, stalled=False)
        if isinstance(verdict, Retry | Fail):
            ending = Ending("failed", lease.failed.duration_ms / 1000)
            lease.failed = failed_attempt(lease.attempt, ending, verdict, kind, now_s)

    def _measure(self, lease: Lease, action: Action, verdict: Settlement | None) -> None:
        """Measure an attempt that has ended: of a pushed job that was settled later, or of a pull worker."""
        labels = (_PUSHED if owner_of(lease.token) else _KIND, lease.queue)
        if verdict is None:
            self._measures.reported(labels, lease, "none", "release")
            return
        came = "result" if isinstance(action, Finished) else "error"
        self._measures.reported(labels, lease, came, word(type(verdict)))
        self._measures.failed(lease.queue, verdict)
        self._measures.settled(lease, verdict)

    async def run(self, rules_known: Callable[[], bool]) -> None:
        """Recover jobs whose lease has lapsed, until cancelled; only while the rules of their queues are known.

        By the defaults a job fails when it stalls a second time, whatever its queue's worker allows.
        """
        while True:
            await asyncio.sleep(_SWEEP_S)
            if not rules_known():
                continue
            try:
                queues = await self._leased.all()
            except StoreError as exc:
                log.debug("pulls.sweep_failed", error=exc.message)
                continue
            for first in range(0, len(queues), _GROUP):
                async with asyncio.TaskGroup() as tasks:
                    for queue in queues[first : first + _GROUP]:
                        tasks.create_task(self._sweep(queue))

    async def _sweep(self, queue: str) -> None:
        try:
            lapsed = await self._stores.of(queue, self._rules(queue)).recover_lapsed(round(_SWEEP_S * 900))
        except (StoreError, JobRefused) as exc:
            log.debug("pulls.sweep_failed", queue=queue, error=exc.message)
            return
        for job_id in lapsed:
            self._measures.stalled(queue)
            log.warning("job.stalled", queue=queue, job_id=job_id.decode(errors="replace"))


async def _check_written(store: PullStore, lease: Lease, action: Action, verdict: Settlement | None) -> None:
    """Raise `LeaseLost` unless the job is where the try without an answer has put it.

    Until its lock lapsed no other worker could put it there. A job that was given back waits again in either case.
    """
    try:
        await store.held(lease.job_id, lease.token)
    except WrongLockToken:
        raise LeaseLost(state="active") from None
    except LeaseLost as exc:
        if isinstance(action, Released) or exc.state in _LEFT_AT.get(type(verdict), ()):
            return
        raise
    raise LeaseLost(state="active")
