"""Facts about registered workers for the overview: how many there are, and which are paused or cannot run."""

from __future__ import annotations

from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Caller, Right
from toril.queues.ports import WorkerRegistry
from toril.queues.rules.worker import shown_worker
from toril.web.operations.stats_shapes import Door, Fact, RegisteredWorker


class WorkerFacts:
    """A reader of the workers of the queues door."""

    door: Door = "queues"

    def __init__(self, registry: WorkerRegistry, names: NameRules) -> None:
        self._registry = registry
        self._names = names

    async def facts(self, caller: Caller) -> list[Fact]:
        """Return which workers are paused."""
        paused = [queue for queue in await self._registry.paused() if caller.may(Right.WORKERS_READ, queue)]
        return [Fact("paused", "worker", queue, None, "The worker takes no jobs.") for queue in sorted(paused)]

    async def sizes(self, caller: Caller) -> dict[str, int]:
        """Return how many workers there are."""
        if not caller.may(Right.WORKERS_READ):
            return {}
        return {"workers": sum(caller.sees(queue) for queue in await self._registry.all())}

    async def worker(self, queue: str) -> RegisteredWorker | None:
        """Return the worker that is registered for a queue."""
        document = (await self._registry.some([queue])).get(queue)
        if document is None:
            return None
        shown = shown_worker(queue, document, self._names, paused=queue in await self._registry.paused())
        endpoint = shown["endpoint"] or {}
        return RegisteredWorker(endpoint.get("url", ""), shown["state"], (shown["opts"] or {}).get("concurrency"))

    async def has_worker(self, queue: str) -> bool:
        """Return True if a worker is registered for this queue, running or paused."""
        return queue in await self._registry.some([queue])
