"""A consumer with everything around it, on fakes and on its own clock."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct

from toril.core.destination import OutboundRequest
from toril.core.failed_attempt import attempt_failed
from toril.core.lease import Lease
from toril.core.outcome import Answered, Outcome
from toril.core.verdict import Complete, Verdict
from toril.engine.consumer import Consumer
from toril.engine.executor import Executor
from toril.engine.handovers import Handovers
from toril.engine.lock_tokens import LockTokens
from toril.engine.policy import EnginePolicy
from toril.engine.settler import Settler
from toril.engine.shared_services import SharedServices
from toril.engine.shared_waits import SharedWaits
from toril.queues.rules.handover import read_handover
from toril.queues.rules.worker import Endpoint, Limiter, WorkerSpec
from toril.testing import (
    FakeClock,
    FakeLeasedQueues,
    FakeLeaseStore,
    FakeMarkerWaits,
    FakeOutbound,
    FakePresence,
    FakeSettlementNotifications,
    answered,
)

LOCK_S = 30.0
POLICY = EnginePolicy(lock_s=LOCK_S, poll_interval_s=10.0, stalled_interval_s=30.0, grace_s=5.0)


class FakeDestination(Struct):
    """A destination whose request holds the job's id, and nothing else."""

    queue: str = "orders"
    concurrency: int = 1
    timeout_s: float = 10_000.0
    url: str = "http://destination.example/"

    @property
    def lease_rules(self) -> WorkerSpec:
        """No limiter, nothing to keep."""
        return WorkerSpec(self.queue, Endpoint(self.url, "POST"))

    def request(self, lease: Lease) -> OutboundRequest:
        """The job's id."""
        return OutboundRequest(b"POST / HTTP/1.1\r\n", lease.job_id, self.timeout_s)

    def judge(self, lease: Lease, outcome: Outcome, chance: Callable[[], float]) -> Verdict:
        """200 completes, 202 hands over as a push worker's does; the rest fails the attempt."""
        if isinstance(outcome, Answered) and (handover := read_handover(outcome)) is not None:
            return handover
        if isinstance(outcome, Answered) and outcome.status == 200:
            return Complete(b'"done"')
        return attempt_failed(lease, type(outcome).__name__, "trace", chance)


class Endpoints:
    """Answers requests when the test says so. `open()` lets all of them through, now and later."""

    def __init__(self) -> None:
        self._answers: dict[bytes, asyncio.Future[Outcome]] = {}
        self._default: Outcome | None = None

    async def __call__(self, request: OutboundRequest) -> Outcome:
        """Part of FakeOutbound."""
        if self._default is not None:
            return self._default
        return await self._answer(request.body)

    def _answer(self, job_id: bytes) -> asyncio.Future[Outcome]:
        found = self._answers.get(job_id)
        if found is None or found.done():
            found = self._answers[job_id] = asyncio.get_running_loop().create_future()
        return found

    def answer(self, job_id: bytes, outcome: Outcome | None = None) -> None:
        """Answer the request of one job."""
        self._answer(job_id).set_result(outcome or answered())

    def open(self, outcome: Outcome | None = None) -> None:
        """Answer every request at once from now on."""
        self._default = outcome or answered()
        for found in self._answers.values():
            if not found.done():
                found.set_result(self._default)


def patient(patience_s: float) -> Settler:
    """A settler for jobs that are not settled later."""
    handovers = Handovers(FakeLeasedQueues(), FakeSettlementNotifications(), instance_id="instance", now=lambda: 0.0)
    return Settler(patience_s, handovers)


class Bench:
    """One consumer and its surroundings. `lot` adds and looks after its jobs, `endpoints` answers."""

    def __init__(
        self,
        clock: FakeClock,
        tasks: asyncio.TaskGroup,
        limit: int,
        limiter: Limiter | None,
        executor: type[Executor] = Executor,
    ) -> None:
        self.clock = clock
        self.tasks = tasks
        self.waits = FakeMarkerWaits()
        self.presence = FakePresence()
        self.store = FakeLeaseStore("orders", now=clock, lock_s=LOCK_S, limiter=limiter, mark=self.waits.mark)
        self.endpoints = Endpoints()
        self.outbound = FakeOutbound(self.endpoints)
        self.shared = SharedServices(
            tasks=tasks,
            waits=SharedWaits(self.waits),
            presence=self.presence,
            now=clock,
            tokens=LockTokens([], "instance"),
        )
        self.leased = FakeLeasedQueues()
        self.news = FakeSettlementNotifications()
        self.handovers = Handovers(self.leased, self.news, instance_id="instance", now=clock)
        self.settler = Settler(2 * LOCK_S, self.handovers)
        self.destination = FakeDestination(concurrency=limit)
        self.executor = executor(self.destination, self.store, self.outbound, self.settler, lambda: 0.5)
        self.gate: Callable[[], bool] = lambda: True
        self.consumer = Consumer(self.destination, limit, self.store, self.executor, self.shared, self._may_begin)

    @property
    def attempted(self) -> list[bytes]:
        """The ids of the jobs that were sent, in order."""
        return [request.body for request in self.outbound.requests]

    def _may_begin(self) -> bool:
        return self.gate()

    async def settle_down(self) -> None:
        """Let everything happen that needs no time to pass."""
        await turns()

    async def until(self, fact: Callable[[], Any], within_s: float = 1.0) -> None:
        """Let time pass until a fact holds; fail when it does not within so many (virtual) seconds."""
        await until(fact, within_s)


async def turns(count: int = 50) -> None:
    """Let the loop turn, without any time passing."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(fact: Callable[[], Any], within_s: float = 1.0, step_s: float = 0.001) -> None:
    """Let (virtual) time pass until a fact holds; fail when it does not within so many seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not fact():
        assert loop.time() <= deadline, f"waited {within_s:g} s in vain"
        await asyncio.sleep(step_s)


@asynccontextmanager
async def bench(
    clock: FakeClock,
    limit: int = 1,
    *,
    limiter: Limiter | None = None,
    executor: type[Executor] = Executor,
) -> AsyncIterator[Bench]:
    """A consumer that works for the length of a block, and is ended in good order behind it."""
    failure: Exception | None = None
    async with asyncio.TaskGroup() as tasks:
        made = Bench(clock, tasks, limit, limiter, executor)
        try:
            yield made
        except Exception as exc:
            failure = exc  # raised behind the group, which would wrap it
        made.store.come_back()
        made.store.let_answers_go()
        made.consumer.stop()
        made.endpoints.open()
        await made.consumer.abandon()
    if failure is not None:
        raise failure
