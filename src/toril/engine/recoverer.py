"""Recovers jobs and leases after crashes and broken connections.

Three sweeps over the consumers of a process. The poll looks for jobs whose marker was lost with another instance.
BullMQ's stalled check puts jobs back to waiting whose worker died. Adoption finds jobs that were leased by a call of
ours whose answer was lost. When a consumer starts, abandoned jobs of its queue go back to waiting at once, or when the
lock that they still have ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable

import structlog

from toril.core.errors import StoreError
from toril.engine.consumer import Consumer
from toril.engine.policy import EnginePolicy
from toril.engine.ports import Presence
from toril.telemetry.measures import UNMEASURED, Measures

log = structlog.get_logger(__name__)

_ADOPT_S = 0.5
_LEAST_PAUSE_S = 0.005
_GROUP = 25
_RETRY_S = 0.5
_MOMENT_S = 0.05


class Recoverer:
    """Sweeps over the consumers of one process.

    Args:
        consumers: returns those to sweep over.
        policy: the intervals.
        presence: told which queues have jobs in flight.
        measures: told of stalled jobs.
    """

    def __init__(
        self,
        consumers: Callable[[], Iterable[Consumer]],
        policy: EnginePolicy,
        presence: Presence,
        measures: Measures = UNMEASURED,
    ) -> None:
        self._consumers = consumers
        self._measures = measures
        self._policy = policy
        self._presence = presence
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
            tasks.create_task(self._every(self._policy.poll_interval_s, self._poll), name="recoverer:poll")
            tasks.create_task(self._every(self._policy.stalled_interval_s, self._stalled), name="recoverer:stalled")
            tasks.create_task(self._adopting(), name="recoverer:adopt")
            tasks.create_task(self._starting(), name="recoverer:starting")

    async def _every(self, interval_s: float, visit: Callable[[list[Consumer]], Coroutine[None, None, None]]) -> None:
        """Visit every queue's consumers once per interval, a few at a time, evenly spread.

        A thousand idle queues are not asked all at once, nor one by one: the calls of one group leave in one write
        (one by one they took 2.2 % of a CPU, in groups of 25 a quarter of that).
        """
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            queues: dict[str, list[Consumer]] = {}
            for consumer in self._consumers():
                if not consumer.stopped:
                    queues.setdefault(consumer.queue, []).append(consumer)
            groups = list(queues.values())
            for first in range(0, len(groups), _GROUP):
                async with asyncio.TaskGroup() as tasks:
                    for consumers in groups[first : first + _GROUP]:
                        tasks.create_task(visit(consumers))
                await asyncio.sleep(began + interval_s * (first + _GROUP) / (len(groups) + _GROUP) - loop.time())
            await asyncio.sleep(max(began + interval_s - loop.time(), _LEAST_PAUSE_S))

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
            for consumer in list(self._consumers()):
                if consumer.in_doubt:
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
        for token in [token for token, since in consumer.in_doubt.items() if since < before]:
            del consumer.in_doubt[token]
