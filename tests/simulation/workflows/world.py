"""The queues door where schedulers make jobs, and jobs wait for their children."""

from functools import partial
from typing import Any

from tests.simulation.queue_store import Broken, WatchedStore
from tests.simulation.queues_world import QueuesInstance, QueuesWorld, read_sent
from tests.simulation.workflows.store import WorkflowStore
from tests.simulation.world import LOCK_S
from toril.core.destination import OutboundRequest
from toril.core.lease import Lease
from toril.core.outcome import Outcome

_CHILD_FAILED = b"child "


class WorkflowsWorld(QueuesWorld):
    """Queues with schedulers and flows, which may span two queues."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.queues = [
            WorkflowStore(queue, now=self.now, lock_s=LOCK_S, mark=self.markers.mark) for queue in self.stores
        ]
        self.stores.update({store.queue: store for store in self.queues})

    def add_jobs(self) -> list[tuple[float, Any]]:
        """Return when which schedulers are set and removed, and which flows are added."""
        plan = self.plan
        events = super().add_jobs()[: plan.choice((0, 2, 4))]
        for number in range(plan.choice((0, 1, 2))):
            store, at_s = plan.choice(self.queues), 5.0 * plan.random()
            every_s, limit = plan.choice((0.5, 2.0, 3.0)), plan.randint(2, 6)
            events.append((at_s, partial(store.put, f"every{number}", every_s, limit, plan.choice((1, 2)))))
            if plan.random() < 0.2:
                events.append((at_s + 8.0 * plan.random(), partial(store.drop, f"every{number}")))
        for number in range(plan.choice((1, 1, 2, 3))):
            children = [
                (plan.choice(self.queues), f"child{number}-{which}", plan.choice((1, 2)), plan.random() < 0.5)
                for which in range(plan.randint(1, 3))
            ]
            add = partial(plan.choice(self.queues).add_flow, f"parent{number}", plan.choice((1, 2, 3)), children)
            events.append((plan.choice((0.0, 12.0)) + 3.0 * plan.random(), add))
        return events

    def moved(self, store: WatchedStore, job_id: bytes, place: str | None) -> None:
        """Check that a job has ended for a reason, and let its parent know."""
        assert isinstance(store, WorkflowStore)
        fields = store.jobs.get(job_id, {})
        if fields.get(b"defa", b"").startswith(_CHILD_FAILED):
            if place == "completed":
                raise Broken(f"job {job_id.decode()} has completed although a child of it has failed")
            if place == "failed" and fields[b"failedReason"] != fields[b"defa"]:
                raise Broken(f"job {job_id.decode()} failed for {fields[b'failedReason']!r}")
        else:
            super().moved(store, job_id, place)
        if place in ("completed", "failed"):
            store.child_ended(job_id, place)

    async def answer(self, instance: QueuesInstance, request: OutboundRequest) -> Outcome:
        """Answer a request, of a job that may begin."""
        self._begins(read_sent(request.body).job.id.encode())
        return await super().answer(instance, request)

    def _pulled(self, lease: Lease) -> None:
        self._begins(lease.job_id)
        super()._pulled(lease)

    def _begins(self, job_id: bytes) -> None:
        for store in self.queues:
            if job_id in store.waits_for:
                self.breaks(Broken(f"job {job_id.decode()} begins before its children {store.waits_for[job_id]}"))
            deferred = store.jobs.get(job_id, {}).get(b"defa")
            if deferred is not None and deferred.startswith(_CHILD_FAILED):
                self.breaks(Broken(f"job {job_id.decode()} begins although a child of it has failed"))

    def left(self) -> list[str]:
        """Return the jobs that have not ended, and the schedulers that have not made all of theirs."""
        return [*super().left(), *(name for store in self.queues for name in store.unmade())]
