"""Owns the consumers of a process: starts, replaces and stops them, and tells whether they are alive.

Called by the reconciler (which knows what should run) and by bootstrap (which runs and stops it all).
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

import structlog

from toril.core.destinations.base import DEFAULT_RULES, Destination, LeaseRules
from toril.core.policy import EnginePolicy
from toril.core.ports.work import Presence
from toril.engine.consumer import Consumer
from toril.engine.lease_keeper import LeaseKeeper
from toril.engine.measures import UNMEASURED, Measures
from toril.engine.recoverer import Recoverer

log = structlog.get_logger(__name__)

_WINDUP_S = 5.0
MakeConsumer = Callable[[Destination, int], Consumer]


class Supervisor:
    """The consumers of one process, by queue.

    Args:
        make: builds a consumer for a destination with so many slots.
        policy: intervals, grace, and which process of how many this is.
        presence: told when a queue is not worked on any more.
        forget: told the same; gives up the queue's place among the waits.
        measures: for the recoverer.
        works: whether there is to be a consumer for any destination; without, they are only known by their rules.
    """

    def __init__(
        self,
        make: MakeConsumer,
        policy: EnginePolicy,
        presence: Presence,
        forget: Callable[[str], None],
        measures: Measures = UNMEASURED,
        *,
        works: bool = True,
    ) -> None:
        self._make = make
        self._works = works
        self._policy = policy
        self._presence = presence
        self._forget = forget
        self._running: dict[str, Consumer] = {}
        # Of all registered workers, also of those that other processes have all the slots of.
        self._destinations: dict[str, Destination] = {}
        # Replaced or removed, with jobs still in flight.
        self._retiring: set[Consumer] = set()
        # Workers on sockets, as many of them per queue as there are.
        self._seated: set[Consumer] = set()
        self._stopping = False
        # Queues that belong to what the operator has configured: no registered worker takes their place.
        self._kept: set[str] = set()
        self.recoverer = Recoverer(self.consumers, policy, presence, measures)
        self.lease_keeper = LeaseKeeper(self.consumers, policy.lock_s)

    def consumers(self) -> list[Consumer]:
        """Every consumer that may have jobs in flight."""
        self._retiring = {consumer for consumer in self._retiring if consumer.slots or consumer.in_doubt}
        return [*self._running.values(), *self._seated, *self._retiring]

    def rules(self, queue: str) -> LeaseRules:
        """What a queue's registered worker asks for; BullMQ's defaults where there is none."""
        destination = self._destinations.get(queue)
        return DEFAULT_RULES if destination is None else destination.lease_rules

    def queues(self) -> list[str]:
        """The queues that are worked on here."""
        return list(self._running)

    def keep(self, destination: Destination) -> None:
        """Work on a destination's queue from now on, whatever is registered for a queue of that name."""
        self._kept.discard(destination.queue)
        self.start(destination)
        self._kept.add(destination.queue)

    def start(self, destination: Destination) -> None:
        """Work on a destination's queue from now on.

        A consumer that is there already is replaced at once: its jobs in flight end where they began, and hold up
        nothing.
        """
        if destination.queue in self._kept:
            log.error("consumer.not_started", queue=destination.queue, hint="the configuration has this queue")
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
        """Work on a destination's queue no more for now; jobs in flight end."""
        if destination.queue in self._kept:
            return
        self.stop(destination.queue)
        self._destinations[destination.queue] = destination

    def stop(self, queue: str) -> None:
        """Work on this queue no more; jobs in flight end."""
        if queue in self._kept:
            return
        self._destinations.pop(queue, None)
        if self._retire(queue):
            self._leave(queue)
            log.info("consumer.stopped", queue=queue)

    def _leave(self, queue: str) -> None:
        """A consumer of this queue is gone: give up its place among the waits, unless another one works here."""
        if queue not in self._running and all(other.queue != queue for other in self._seated):
            self._presence.gone(queue)
            self._forget(queue)

    def seat(self, consumer: Consumer) -> None:
        """Let a worker on a socket work beside all others, until it is unseated."""
        self._seated.add(consumer)
        if self._stopping:
            consumer.stop()
        else:
            consumer.look()
            self.recoverer.started(consumer)

    async def unseat(self, consumer: Consumer, *, stalled: bool) -> None:
        """Give the jobs of a socket that is gone back to waiting at once, without spending an attempt.

        `stalled`: its worker vanished, which counts as a stall of each.
        """
        consumer.stop()
        self._seated.discard(consumer)
        self._retiring.add(consumer)
        await consumer.abandon(stalled=stalled)
        self._leave(consumer.queue)

    def cancelled(self, queue: str, job_id: bytes) -> bool:
        """A job was cancelled: break its attempt off if it is here; whether it was."""
        here = [consumer.cancel(job_id) for consumer in self.consumers() if consumer.queue == queue]
        return any(here)

    def _retire(self, queue: str) -> bool:
        consumer = self._running.pop(queue, None)
        if consumer is None:
            return False
        consumer.stop()
        if consumer.slots or consumer.in_doubt:
            self._retiring.add(consumer)
        return True

    def sluggish(self) -> list[str]:
        """The queues whose consumer has not heard from Redis for three polls, without a reason not to ask."""
        before = asyncio.get_running_loop().time() - 3 * self._policy.poll_interval_s
        return [queue for queue, consumer in self._running.items() if not consumer.heard_since(before)]

    async def run(self) -> None:
        """Keep leases and sweep up, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.lease_keeper.run(), name="lease-keeper")
            tasks.create_task(self.recoverer.run(), name="recoverer")

    def stop_leasing(self) -> None:
        """Lease nothing more, on any queue."""
        self._stopping = True
        for queue in list(self._running):
            self._retire(queue)
        for consumer in self._seated:
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
    """How much of a concurrency one of several processes has; together they have exactly all of it.

    Which processes get the odd ones depends on the queue's name, so that queues with a concurrency of 1 spread.
    """
    whole, odd = divmod(concurrency, processes)
    rank = (process - zlib.crc32(queue.encode())) % processes
    return whole + (1 if rank < odd else 0)
