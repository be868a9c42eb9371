"""Leases jobs to workers that ask for them, and settles what they say by lock token.

Their locks are renewed by nobody but themselves. A lease that runs out goes back to the queue within a few seconds and
counts as a stall, as for any BullMQ worker: a sweep over the queues that have such leases, which the fleet shares.
Called by the gateway, through a port.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable

import structlog

from toril.core.destinations.base import Chance, LeaseRules
from toril.core.errors import ConnectionLost, JobRefused, LeaseLost, StoreError, StoreTimeout
from toril.core.lease import NOTHING, Lease, NoJob
from toril.core.lock_tokens import owner_of
from toril.core.metrics import word
from toril.core.ports.work import LeasedQueues, PullStore, PullStores
from toril.core.pull import Action, Ask, Extended, Failed, Finished, Released
from toril.core.verdict import Complete, Fail, Retry, Settlement, keep_for_scheduler
from toril.engine.consumer import Surroundings
from toril.engine.handovers import Handovers

log = structlog.get_logger(__name__)

_SWEEP_S = 1.5
_GROUP = 25
_POLL_S = 10.0
_LONGEST_LIMIT_S = 30.0
_KIND = "pull_worker"
_PUSHED = "push_worker"


class Pull:
    """One request for jobs while it is served. `hang_up` is called when nobody waits for the answer any more."""

    def __init__(self, queue: str, ask: Ask) -> None:
        self.queue = queue
        self.ask = ask
        self.over = False
        self.stir = asyncio.Event()
        self.due_at_s = math.inf

    def hang_up(self) -> None:
        """Take no job any more."""
        self.over = True
        self.stir.set()

    def wake(self, at_s: float) -> None:
        """A marker was popped: jobs wait now (0), or from `at_s` on."""
        self.due_at_s = min(self.due_at_s, at_s)
        self.stir.set()


Rules = Callable[[str], LeaseRules]


class Pulls:
    """The pull workers of one process.

    Args:
        stores: lease and settle.
        leased: which queues have leases that nobody renews.
        around: what all who lease share.
        handovers: told of jobs that are settled here.
        rules: what holds for the jobs of a queue, by its registered worker.
        chance: of backoffs.
    """

    def __init__(
        self,
        stores: PullStores,
        leased: LeasedQueues,
        around: Surroundings,
        handovers: Handovers,
        rules: Rules,
        chance: Chance,
    ) -> None:
        self._measures = around.measures
        self._stores = stores
        self._leased = leased
        self._waits = around.waits
        self._handovers = handovers
        self._rules = rules
        self._tokens = around.tokens
        self._now = around.now
        self._chance = chance
        self._waiting: set[Pull] = set()
        self._closed = False

    def close(self) -> None:
        """The instance shuts down: nobody waits any more."""
        self._closed = True
        for pull in self._waiting:
            pull.hang_up()

    def begin(self, queue: str, ask: Ask) -> Pull:
        """A request for jobs, for `lease`."""
        return Pull(queue, ask)

    async def lease(self, pull: Pull) -> list[Lease]:
        """Jobs as soon as there is one, as many as there are and were asked for; none when the time is over."""
        ask = pull.ask
        store = self._stores.of(pull.queue, self._rules(pull.queue), ask.lock_ms, ask.worker)
        until = asyncio.get_running_loop().time() + ask.wait_ms / 1000
        self._waiting.add(pull)
        try:
            while not self._closed:
                # Noted before a job is taken: should this process die in between, the lease is found all the same.
                await self._leased.note(pull.queue, self._now() + ask.lock_ms / 1000)
                leases, nothing = await self._take(store, ask.count)
                if leases and pull.over:
                    for lease in leases:
                        await store.release(lease)
                    return []
                if leases or pull.over or not await self._news(pull, nothing, until):
                    return leases
            return []
        finally:
            self._waiting.discard(pull)
            if pull.due_at_s < math.inf:
                # What this one knows of jobs came from a marker that nobody else has seen.
                self._waits.pass_on(pull.queue, pull.due_at_s)

    async def _news(self, pull: Pull, nothing: NoJob, until: float) -> bool:
        """Wait until it is worth looking again; False when the time is over."""
        loop = asyncio.get_running_loop()
        look_at = loop.time() + (min(nothing.retry_in_s, _LONGEST_LIMIT_S) if nothing.retry_in_s else _POLL_S)
        while loop.time() < until and not pull.over:
            due_in_s = pull.due_at_s - self._now()
            if due_in_s <= 0:
                pull.due_at_s = math.inf
                return True
            if loop.time() >= look_at:
                return True
            pull.stir.clear()
            if not nothing.retry_in_s:  # under a rate limit, markers say nothing
                self._waits.watch(pull.queue, pull.wake)
            try:
                # A millisecond late rather than early: BullMQ promotes a delayed job in the millisecond of its time.
                async with asyncio.timeout(max(0.0, min(until, look_at, loop.time() + due_in_s + 0.001) - loop.time())):
                    await pull.stir.wait()
            except TimeoutError:
                pass
            finally:
                self._waits.unwatch(pull.queue, pull.wake)
        return False

    async def _take(self, store: PullStore, count: int) -> tuple[list[Lease], NoJob]:
        """As many jobs as there are, up to a number: the first, and the others all at once."""
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
        except StoreError as exc:  # the first one has been taken: the caller gets what there is
            log.debug("pull.take_failed", error=exc.message)
            return NOTHING

    async def _take_one(self, store: PullStore) -> Lease | NoJob:
        while True:
            found = await store.take(self._tokens.made(store.queue, str(uuid.uuid4())))
            if isinstance(found, NoJob):
                return found
            try:
                if await self._may_be_given(store, found):
                    await self._note_length(store, found)
                    self._measures.began((_KIND, found.queue), found)
                    return found
            except JobRefused as exc:
                # It stays leased until its lease runs out; the others must not wait for it.
                log.warning(
                    "pull.refused", queue=found.queue, job_id=found.job_id.decode(errors="replace"), error=exc.message
                )

    async def _note_length(self, store: PullStore, lease: Lease) -> None:
        """Remember how long the lease is, for an extension that does not say. The job is leased without that, too."""
        try:
            await store.note_length(lease)
        except StoreError as exc:
            log.debug("pull.length_unknown", queue=lease.queue, error=exc.message)

    async def _may_be_given(self, store: PullStore, lease: Lease) -> bool:
        """Produce the job's next iteration, and settle the job where it is not to be worked on; False then."""
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

    async def settle(self, queue: str, job_id: str, token: bytes, action: Action) -> None:
        """Do what the worker that holds this token says.

        Raises:
            LeaseLost: no lock holds the job, and nothing was written. Which state it is in is told to who has had it;
                to anybody else it is unknown, also where there is no such job.
            WrongLockToken: another worker has it.
            JobRefused: it cannot complete, as it has children that are not done.
        """
        lock_ms = action.lock_ms if isinstance(action, Extended) else None
        store = self._stores.of(queue, self._rules(queue), lock_ms)
        try:
            lease = await store.held(job_id.encode(errors="replace"), token)
        except LeaseLost:
            if self._tokens.knows(queue, token):
                raise
            # Whoever never had it must not learn whether there is such a job, or such a queue: BullMQ's word for both.
            raise LeaseLost(state="unknown") from None
        if lock_ms is None and isinstance(action, Extended):
            store = self._stores.of(queue, self._rules(queue), lease.length_ms)
        verdict = action.verdict(lease, self._chance) if isinstance(action, Finished | Failed) else None
        tried = False
        while True:
            try:
                await self._write(store, lease, action, verdict)
            except (ConnectionLost, StoreTimeout):
                # Whether it was written is unknown. Asking again tells: it is written only while the lock is there.
                if tried:
                    raise
                tried = True
            except LeaseLost:
                if not tried:
                    raise
                break
            else:
                break
        if not isinstance(action, Extended):
            self._measure(lease, action, verdict)
            await self._handovers.tell(lease)

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

    def _measure(self, lease: Lease, action: Action, verdict: Settlement | None) -> None:
        """One that an endpoint settles later is an attempt of its own kind: a slot of an instance has it."""
        labels = (_PUSHED if owner_of(lease.token) else _KIND, lease.queue)
        if verdict is None:
            self._measures.reported(labels, lease, "none", "release")
            return
        came = "result" if isinstance(action, Finished) else "error"
        self._measures.reported(labels, lease, came, word(type(verdict)))
        self._measures.settled(lease, verdict)

    async def run(self) -> None:
        """Bring back what has lapsed, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
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
