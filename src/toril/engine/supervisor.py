"""Owns the consumers of a process: starts, replaces and stops them, and knows whether they are alive.

There are three kinds: those of the operator's configuration, those of registered workers (one per queue in both cases),
and those that are attached for as long as a worker keeps its own connection open, any number per queue.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

import structlog

from toril.core.destination import DEFAULT_RULES, Destination, LeaseRules
from toril.engine.consumer import Consumer
from toril.engine.lease_keeper import LeaseKeeper
from toril.engine.policy import EnginePolicy
from toril.engine.recoverer import Recoverer
from toril.engine.shared_services import SharedServices

log = structlog.get_logger(__name__)

_WINDUP_S = 5.0
MakeConsumer = Callable[[Destination, int], Consumer]


class Supervisor:
    """The consumers of one process.

    Args:
        make: builds a consumer for a destination with this number of slots.
        policy: intervals, grace, and which process of how many this is.
        shared: what the consumers share; told which queues are not worked on now.
        works: False where destinations get no consumer, and are known for the rules of their leases alone.
    """

    def __init__(self, make: MakeConsumer, policy: EnginePolicy, shared: SharedServices, *, works: bool = True) -> None:
        self._make = make
        self._works = works
        self._policy = policy
        self._presence = shared.presence
        self._waits = shared.waits
        self._running: dict[str, Consumer] = {}
        # By queue, also those whose slots are all in other processes.
        self._destinations: dict[str, Destination] = {}
        # Replaced or removed, with jobs still in flight.
        self._retiring: set[Consumer] = set()
        self._attached: set[Consumer] = set()
        self._stopping = False
        # Queues of the configuration's destinations: a worker registered for one of them is not started.
        self._configured: set[str] = set()
        self.recoverer = Recoverer(self.consumers, policy, shared.presence, shared.measures, shared.survey)
        self.lease_keeper = LeaseKeeper(self.consumers, policy.lock_s)

    def consumers(self) -> list[Consumer]:
        """Return every consumer that may have jobs in flight."""
        self._retiring = {consumer for consumer in self._retiring if consumer.slots or consumer.in_doubt}
        return [*self._running.values(), *self._attached, *self._retiring]

    def lease_rules(self, queue: str) -> LeaseRules:
        """Return the lease rules of a queue's destination; BullMQ's defaults where there is none."""
        destination = self._destinations.get(queue)
        return DEFAULT_RULES if destination is None else destination.lease_rules

    def queues(self) -> list[str]:
        """Return the queues whose destination is worked on here."""
        return list(self._running)

    def start_configured(self, destination: Destination) -> None:
        """Start, or replace, a destination of the configuration, and let no registered worker take its queue."""
        self._configured.discard(destination.queue)
        self.start(destination)
        self._configured.add(destination.queue)

    def start(self, destination: Destination) -> None:
        """Work on a destination's queue from now on.

        A consumer that is there already is replaced at once: its jobs in flight end where they began, and hold up
        nothing.
        """
        if destination.queue in self._configured:
            log.error("consumer.not_started", queue=destination.queue, hint="this queue belongs to the configuration")
            return
        self._retire(destination.queue)
        self._destinations[destination.queue] = destination
        if self._stopping or not self._works:
            return
        slots = share(destination.concurrency, destination.queue, self._policy.process, self._policy.processes)
        if slots == 0:
            return
        consumer = self._make(destination, slots)
        self._running[destination.queue] = consumer
        consumer.look()
        self.recoverer.started(consumer)
        log.info("consumer.started", queue=destination.queue, slots=slots)

    def pause(self, destination: Destination) -> None:
        """Stop the consumer of a destination, and keep its lease rules; jobs in flight end."""
        if destination.queue in self._configured:
            return
        self.stop(destination.queue)
        self._destinations[destination.queue] = destination

    def stop(self, queue: str) -> None:
        """Stop the consumer of a queue; jobs in flight end."""
        if queue in self._configured:
            return
        self._destinations.pop(queue, None)
        if self._retire(queue):
            self._leave(queue)
            log.info("consumer.stopped", queue=queue)

    def _leave(self, queue: str) -> None:
        """Stop waiting for a queue, unless another consumer works on it here."""
        if queue not in self._running and all(other.queue != queue for other in self._attached):
            self._presence.gone(queue)
            self._waits.forget(queue)

    def attach(self, consumer: Consumer) -> None:
        """Let a consumer work beside all others of its queue, until it is detached."""
        self._attached.add(consumer)
        if self._stopping:
            consumer.stop()
        else:
            consumer.look()
            self.recoverer.started(consumer)

    async def detach(self, consumer: Consumer, *, stalled: bool) -> None:
        """Stop an attached consumer, and give its jobs back to waiting at once without spending an attempt.

        `stalled`: its worker vanished, which counts as a stall of each job.
        """
        consumer.stop()
        self._attached.discard(consumer)
        self._retiring.add(consumer)
        await consumer.abandon(stalled=stalled)
        self._leave(consumer.queue)

    def cancel(self, queue: str, job_id: bytes) -> bool:
        """Abort the attempt of a cancelled job; return whether it was here."""
        here = [consumer.cancel(job_id) for consumer in self.consumers() if consumer.queue == queue]
        return any(here)

    def limit_lifted(self, queue: str) -> None:
        """Let the consumers of a queue look again, because a rate limit of it was removed."""
        for consumer in self.consumers():
            if consumer.queue == queue:
                consumer.limit_lifted()

    def _retire(self, queue: str) -> bool:
        consumer = self._running.pop(queue, None)
        if consumer is None:
            return False
        consumer.stop()
        if consumer.slots or consumer.in_doubt:
            self._retiring.add(consumer)
        return True

    def sluggish(self) -> list[str]:
        """Return the queues whose consumer has had no answer from Redis for three polls, and no reason not to ask."""
        before = asyncio.get_running_loop().time() - 3 * self._policy.poll_interval_s
        return [queue for queue, consumer in self._running.items() if not consumer.heard_since(before)]

    async def run(self) -> None:
        """Renew leases and recover jobs, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.lease_keeper.run(), name="lease-keeper")
            tasks.create_task(self.recoverer.run(), name="recoverer")

    def stop_leasing(self) -> None:
        """Lease nothing from now on, on any queue."""
        self._stopping = True
        for queue in list(self._running):
            self._retire(queue)
        for consumer in self._attached:
            consumer.stop()

    async def drain(self) -> None:
        """Finish what is in flight within the grace period, then give the rest back."""
        self.stop_leasing()
        consumers = self.consumers()
        try:
            async with asyncio.timeout(self._policy.grace_s):
                for consumer in consumers:
                    await consumer.drained()
        except TimeoutError:
            left = sum(len(consumer.in_flight) for consumer in consumers)
            log.warning("shutdown.grace_over", jobs_given_back=left)
            try:
                async with asyncio.timeout(_WINDUP_S), asyncio.TaskGroup() as tasks:
                    for consumer in consumers:
                        tasks.create_task(consumer.abandon())
            except TimeoutError:
                log.error("shutdown.incomplete", hint="Redis is away; the locks lapse by themselves")


def share(concurrency: int, queue: str, process: int, processes: int) -> int:
    """Return how much of a concurrency one of several processes has; together they have exactly all of it.

    Which processes get the remainder depends on the queue's name, so that queues with a concurrency of 1 spread.
    """
    whole, remainder = divmod(concurrency, processes)
    rank = (process - zlib.crc32(queue.encode())) % processes
    return whole + (1 if rank < remainder else 0)
