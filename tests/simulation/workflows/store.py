"""A queue with schedulers and flows that several instances work on: one next job each, and parents that wait."""

from typing import Any

from msgspec import Struct

from tests.simulation.queue_store import Broken, WatchedStore
from toril.core.lease import Lease


class Scheduler(Struct):
    """When jobs are made: each `every_s` seconds, `limit` of them. `next_s` is the slot of the newest one."""

    every_s: float
    limit: int
    attempts: int
    next_s: float
    made: int = 0


class Parent(Struct):
    """The store of a parent, its id, and whether it fails with the child."""

    store: "WorkflowStore"
    job_id: bytes
    fails: bool


class WorkflowStore(WatchedStore):
    """A `WatchedStore` whose jobs may be those of a scheduler, or wait for children.

    `schedule_next` makes the next job only for the newest one of its scheduler, as toril does with BullMQ's script. A
    parent is in no list until its children have ended, or until one has failed with which it fails.
    """

    def __init__(self, queue: str, **options: Any) -> None:
        super().__init__(queue, **options)
        self.schedulers: dict[str, Scheduler] = {}
        self.parent_of: dict[bytes, Parent] = {}
        self.waits_for: dict[bytes, set[bytes]] = {}

    def put(self, name: str, every_s: float, limit: int, attempts: int) -> None:
        """Set a scheduler, and make its first job."""
        now = self._now()
        scheduler = self.schedulers[name] = Scheduler(every_s, limit, attempts, now - now % every_s + every_s)
        self._make(name, scheduler)

    def drop(self, name: str) -> None:
        """Remove a scheduler, and its next job where that has not begun."""
        scheduler = self.schedulers.pop(name, None)
        if scheduler is not None:
            newest = _slot(name, scheduler)
            if newest in self.delayed or newest in self.waiting:
                self.remove(newest)

    def _make(self, name: str, scheduler: Scheduler) -> None:
        job_id = _slot(name, scheduler)
        if job_id in self.accepted:
            raise Broken(f"the scheduler {name} has fired twice for {job_id.decode()}")
        scheduler.made += 1
        delay_s = max(0.0, scheduler.next_s - self._now())
        self.accept(job_id.decode(), scheduler.attempts, delay_s=delay_s, fields={b"rjk": name.encode()})

    async def schedule_next(self, lease: Lease) -> str | None:
        """Make the next job of the scheduler of this one, if it is the newest."""
        name = lease.fields[b"rjk"].decode()

        def step() -> None:
            scheduler = self.schedulers.get(name)
            if scheduler is None or _slot(name, scheduler) != lease.job_id or scheduler.made >= scheduler.limit:
                return
            now, every_s = self._now(), scheduler.every_s
            scheduler.next_s = max(scheduler.next_s + every_s, now - now % every_s)
            self._make(name, scheduler)

        await self._call("schedule_next", step)
        return None

    def add_flow(self, job_id: str, attempts: int, children: list[tuple["WorkflowStore", str, int, bool]]) -> None:
        """Add a parent and its children: of each the queue, the id, the attempts, and whether the parent fails too."""
        self.accept(job_id, attempts)
        parent = job_id.encode()
        self.waiting.remove(parent)
        self.waits_for[parent] = {child.encode() for _, child, *_ in children}
        for store, child, tries, fails in children:
            store.parent_of[child.encode()] = Parent(self, parent, fails)
            store.accept(child, tries)

    def child_ended(self, job_id: bytes, place: str) -> None:
        """Let the parent of a child begin, where it was the last one, or has failed and the parent fails with it."""
        parent = self.parent_of.get(job_id)
        if parent is None:
            return
        waits, store = parent.store.waits_for.get(parent.job_id), parent.store
        if waits is None:
            return
        waits.discard(job_id)
        if place == "failed" and parent.fails:
            store.jobs[parent.job_id][b"defa"] = b"child %b failed" % job_id
        elif waits:
            return
        del store.waits_for[parent.job_id]
        store.waiting.append(parent.job_id)
        store.places[parent.job_id] = "waiting"  # in the step that ends the child
        store._mark(store.queue, 0.0)

    def look(self) -> list[tuple[bytes, str | None]]:
        """Check the jobs after a step, and that each scheduler has its next job until it has made all of them."""
        moved = super().look()
        for name, scheduler in self.schedulers.items():
            newest = _slot(name, scheduler)
            if self.places.get(newest) not in ("waiting", "delayed", "active") and scheduler.made < scheduler.limit:
                raise Broken(f"the scheduler {name} has stopped: {newest.decode()} is {self.places.get(newest)}")
        return moved

    def unmade(self) -> list[str]:
        """Return the schedulers that have not made all their jobs."""
        return [name for name, scheduler in self.schedulers.items() if scheduler.made < scheduler.limit]


def _slot(name: str, scheduler: Scheduler) -> bytes:
    return f"repeat:{name}:{round(scheduler.next_s * 1000)}".encode()
