"""Recovers jobs and leases after crashes and broken connections.

Three sweeps over the consumers of a process. The poll looks for jobs whose marker was lost with another instance.
BullMQ's stalled check puts jobs back to waiting whose worker died. Adoption finds jobs that were leased by a call of
ours whose answer was lost. When a consumer starts, abandoned jobs of its queue go back to waiting at once, or when the
lock that they still have ends. Queues that a survey of many finds idle are left out of the first two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable

import structlog

from toril.core.errors import StoreError
from toril.engine.consumer import Consumer
from toril.engine.policy import EnginePolicy
from toril.engine.ports import Presence
from toril.engine.queue_survey import EVERY_QUEUE, QueueSurvey
from toril.telemetry.measures import UNMEASURED, Measures

log = structlog.get_logger(__name__)

_ADOPT_S = 0.5
_LEAST_PAUSE_S = 0.005
_GROUP = 25
_SURVEYS = 40
"""How many surveys a sweep makes in its interval, unless they would be of fewer queues than `_GROUP`."""
_MOST_SURVEYED = 250
_RETRY_S = 0.5
_MOMENT_S = 0.05

Survey = Callable[["_Queues", list[str]], Coroutine[None, None, Collection[str]]]
Visit = Callable[[list[Consumer]], Coroutine[None, None, None]]


class Recoverer:
    """Sweeps over the consumers of one process.

    Args:
        consumers: returns those to sweep over.
        policy: the intervals.
        presence: told which queues have jobs in flight.
        measures: told of stalled jobs.
        survey: tells which queues have something to find.
    """

    def __init__(
        self,
        consumers: Callable[[], Iterable[Consumer]],
        policy: EnginePolicy,
        presence: Presence,
        measures: Measures = UNMEASURED,
        survey: QueueSurvey = EVERY_QUEUE,
    ) -> None:
        self._consumers = consumers
        self._measures = measures
        self._policy = policy
        self._presence = presence
        self._survey = survey
        # By queue, a consumer that has started, and whether there is to be a second look.
        self._started: dict[str, tuple[Consumer, bool]] = {}
        self._some_started = asyncio.Event()

    def started(self, consumer: Consumer, *, again: bool = True) -> None:
        """Look for jobs that were abandoned in this consumer's queue.

        `again`: look a second time, when the locks that are found have run out, unless they were renewed.
        """
        self._started[consumer.queue] = consumer, again
        self._some_started.set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._polling(), name="recoverer:poll")
            tasks.create_task(self._checking(), name="recoverer:stalled")
            tasks.create_task(self._adopting(), name="recoverer:adopt")
            tasks.create_task(self._starting(), name="recoverer:starting")

    async def _polling(self) -> None:
        await self._every(self._policy.poll_interval_s, self._with_jobs, self._poll)

    async def _checking(self) -> None:
        await self._every(self._policy.stalled_interval_s, self._to_check, self._stalled)

    async def _every(self, interval_s: float, survey: Survey, visit: Visit) -> None:
        """Visit the consumers of every queue that is not idle once per interval, a few at a time, evenly spread.

        A thousand queues are not asked all at once, nor one by one: the calls of one group leave in one write (one by
        one they took 2.2 % of a CPU, in groups of 25 a quarter of that).
        """
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            queues = _Queues(self._consumers())
            names = list(queues.first)
            size = max(_GROUP, min(len(names) // _SURVEYS, _MOST_SURVEYED))
            pace_s = interval_s / (len(names) + size)
            for first in range(0, len(names), size):
                busy = await self._busy(queues, names[first : first + size], survey)
                for position in range(0, len(busy), _GROUP):
                    async with asyncio.TaskGroup() as tasks:
                        for name in busy[position : position + _GROUP]:
                            tasks.create_task(visit(queues.consumers(name)))
                    done = first + size * min(position + _GROUP, len(busy)) / len(busy)
                    await asyncio.sleep(began + pace_s * done - loop.time())
                await asyncio.sleep(began + pace_s * (first + size) - loop.time())
            await asyncio.sleep(max(began + interval_s - loop.time(), _LEAST_PAUSE_S))

    async def _busy(self, queues: _Queues, names: list[str], survey: Survey) -> list[str]:
        """Return the queues that have a job in a slot here, or are not idle by this survey."""
        quiet = [name for name in names if not queues.has_job(name)]
        if not quiet:
            return names
        try:
            idle = set(quiet).difference(await survey(queues, quiet))
        except StoreError as exc:
            log.debug("recoverer.survey_failed", queues=len(quiet), error=exc.message)
            return names
        return [name for name in names if name not in idle]

    async def _with_jobs(self, queues: _Queues, quiet: list[str]) -> Collection[str]:
        """Return the queues that may have a job to lease now; for the others, the survey is the look of this poll."""
        found = await self._survey.with_jobs(quiet)
        now = asyncio.get_running_loop().time()
        for name in quiet:
            at_s = found.get(name)
            if at_s == 0:
                continue
            queues.answered(name, now)
            if at_s is not None:
                queues.first[name].expect(at_s)
        return [name for name, at_s in found.items() if at_s == 0]

    async def _to_check(self, queues: _Queues, quiet: list[str]) -> Collection[str]:
        return await self._survey.to_check(quiet)

    async def _poll(self, consumers: list[Consumer]) -> None:
        """Let one consumer of a queue look for all of them: the marker that it leaves wakes the others."""
        if any(consumer.in_flight for consumer in consumers):
            self._presence.active(consumers[0].queue)
        free = next((consumer for consumer in consumers if not consumer.full), None)
        if free is not None:
            free.look()

    async def _stalled(self, consumers: list[Consumer]) -> None:
        consumer = consumers[0]  # a registered worker's settings come before a socket's
        try:
            stalled = await consumer.store.recover_stalled()
        except StoreError as exc:
            log.debug("recoverer.stalled_failed", queue=consumer.queue, error=exc.message)
            return
        self._report(consumer, stalled)

    def _report(self, consumer: Consumer, stalled: list[bytes]) -> None:
        for job_id in stalled:
            self._measures.stalled(consumer.queue)
            log.warning("job.stalled", queue=consumer.queue, job_id=job_id.decode(errors="replace"))

    async def _starting(self) -> None:
        """Look for abandoned jobs in the queues of consumers that have started, a few at a time."""
        while True:
            await self._some_started.wait()
            queues = list(self._started)[:_GROUP]
            if not queues:
                self._some_started.clear()
                continue
            async with asyncio.TaskGroup() as tasks:
                for queue in queues:
                    tasks.create_task(self._abandoned(*self._started.pop(queue)))

    async def _abandoned(self, consumer: Consumer, again: bool) -> None:
        if consumer.stopped:
            return
        loop = asyncio.get_running_loop()
        try:
            abandoned, locked_s = await consumer.store.recover_abandoned()
        except StoreError as exc:
            log.debug("recoverer.abandoned_failed", queue=consumer.queue, error=exc.message)
            loop.call_later(_RETRY_S, lambda: self.started(consumer, again=again))
            return
        self._report(consumer, abandoned)
        if again and locked_s > 0:
            wait_s = min(locked_s, self._policy.lock_s) + _MOMENT_S
            loop.call_later(wait_s, lambda: self.started(consumer, again=False))

    async def _adopting(self) -> None:
        while True:
            await asyncio.sleep(_ADOPT_S)
            for consumer in [consumer for consumer in self._consumers() if consumer.in_doubt]:
                await self.adopt(consumer)

    async def adopt(self, consumer: Consumer) -> None:
        """Take up the jobs that are locked by this consumer's tokens in doubt.

        A token stays in doubt for as long as a lock lives: Redis may still run a command that it has not read yet.
        """
        try:
            leases = await consumer.store.adopt(list(consumer.in_doubt))
        except StoreError as exc:
            log.debug("recoverer.adopt_failed", queue=consumer.queue, error=exc.message)
            return
        for lease in leases:
            log.info("lease.adopted", queue=consumer.queue, job_id=lease.job_id.decode(errors="replace"))
            consumer.adopt(lease)
        before = asyncio.get_running_loop().time() - self._policy.lock_s
        for token in [token for token, doubt in consumer.in_doubt.items() if doubt.since < before]:
            del consumer.in_doubt[token]


class _Queues:
    """The consumers that are not stopped, by queue, when a sweep begins.

    Most queues have one: a list for each of ten thousand queues would take longer to make than their survey.
    """

    def __init__(self, consumers: Iterable[Consumer]) -> None:
        self.first: dict[str, Consumer] = {}
        self._others: dict[str, list[Consumer]] = {}
        for consumer in consumers:
            if not consumer.stopped and self.first.setdefault(consumer.queue, consumer) is not consumer:
                self._others.setdefault(consumer.queue, []).append(consumer)

    def consumers(self, queue: str) -> list[Consumer]:
        """Return the consumers of a queue."""
        return [self.first[queue], *self._others.get(queue, ())]

    def has_job(self, queue: str) -> bool:
        """Return True if a slot is taken."""
        if self.first[queue].slots:
            return True
        return queue in self._others and any(consumer.slots for consumer in self._others[queue])

    def answered(self, queue: str, at: float) -> None:
        """Record that Redis has answered about a queue."""
        self.first[queue].answered_at = at
        for consumer in self._others.get(queue, ()):
            consumer.answered_at = at
