"""Random histories of a queue with groups, made in a store and by the rules in Python, which must choose the same."""

import random
from collections.abc import Callable
from typing import Protocol

from toril.bullmq.ports.groups import GroupStore
from toril.bullmq.rules.groups import RETRIED, GroupLimits, GroupSchedule
from toril.core.group_limits import GroupDefault, GroupRate
from toril.core.lease import Lease
from toril.core.verdict import Complete, Fail, Retry
from toril.engine.ports import LeaseStore

DONE = Complete(b"1")
AGAIN = Retry(0, "no", "trace")
FAILED = Fail("no", "trace")


class GroupedQueue(Protocol):
    """One queue of a store that knows groups."""

    queue: str

    @property
    def store(self) -> LeaseStore:
        """Leases from it."""
        ...

    @property
    def control(self) -> GroupStore:
        """Its groups."""
        ...

    def follow(self, default: Callable[[], GroupDefault]) -> None:
        """Take the limits of groups that have none from here."""
        ...

    async def add(self, job_id: str, group: str | None, priority: int) -> None:
        """Add a job of a group, or of none; then its priority does not count."""
        ...

    async def lapse(self, lease: Lease) -> None:
        """End a lease as if its worker had died, and let the job wait again."""
        ...

    async def promote(self, job_id: str) -> bool:
        """Let a waiting job of a group pass its rate and its pause; False where that cannot be done."""
        ...


class Both:
    """A queue in a store, and the rules beside it; each step is made in both and must choose the same job."""

    GROUPS = ("a", "b", "t", "t/1", "t/2", "7")

    def __init__(self, world: GroupedQueue, seed: int) -> None:
        self.world = world
        self.seed = seed
        self.control = world.control
        self.chance = random.Random(seed)
        self.rules = GroupSchedule(GroupDefault(concurrency=self.chance.choice((None, 2))))
        world.follow(lambda: self.rules.default)
        self.running: list[tuple[Lease, str | None]] = []
        self.priorities: dict[str, int] = {}
        self.starts = 0

    async def step(self) -> None:
        kinds = [self.add, self.add, self.add, self.start, self.start, self.start, self.end, self.end, self.retry]
        kinds += [self.limit, self.promote, self.pause, self.default, self.die]
        await self.chance.choice(kinds)()

    async def add(self) -> None:
        job_id, group = f"{self.seed}-{len(self.priorities)}", self.chance.choice((*self.GROUPS, None))
        priority = self.chance.choice((0, 0, 1, 5))
        await self.world.add(job_id, group, priority)
        if group is None:
            self.rules.plain.append(job_id)
        else:
            self.rules.add(group, job_id, priority)
        self.priorities[job_id] = priority

    async def start(self) -> None:
        self.starts += 1
        found = await self.world.store.take(b"us:%d" % self.starts)
        chosen = self.rules.start(0)
        assert (found.job_id.decode() if isinstance(found, Lease) else None) == chosen.job
        if isinstance(found, Lease):
            self.running.append((found, chosen.group))

    async def end(self) -> None:
        if self.running:
            lease, group = self.running.pop(self.chance.randrange(len(self.running)))
            verdict = self.chance.choice((DONE, FAILED))
            if isinstance(verdict, Complete):
                await self.world.store.complete(lease, verdict, fetch_next=False)
            else:
                await self.world.store.fail(lease, verdict, fetch_next=False)
            self._free(lease, group)

    async def retry(self) -> None:
        held = [each for each in self.running if each[1] is not None]
        if held:
            lease, group = self.chance.choice(held)
            self.running.remove((lease, group))
            if self.chance.random() < 0.5:
                await self.world.store.retry(lease, AGAIN, fetch_next=False)
            else:
                await self.world.store.release(lease)
            self._back(lease, group)

    async def die(self) -> None:
        """A worker dies: its job's lock lapses, and the job goes back."""
        held = [each for each in self.running if each[1] is not None]
        if not held:
            return
        lease, group = self.chance.choice(held)
        self.running.remove((lease, group))
        await self.world.lapse(lease)
        self._back(lease, group)
        await self.start()

    def _free(self, lease: Lease, group: str | None) -> None:
        if group is not None:
            self.rules.free(group, lease.job_id.decode())

    def _back(self, lease: Lease, group: str | None) -> None:
        assert group is not None
        job_id = lease.job_id.decode()
        self.rules.free(group, job_id)
        self.rules.add(group, job_id, self.priorities[job_id], RETRIED)

    async def limit(self) -> None:
        group, chance = self.chance.choice(self.GROUPS), self.chance
        # So long that no time passes meanwhile.
        rate = chance.choice((None, None, GroupRate(chance.randint(1, 4), 10**9)))
        limits = GroupLimits(chance.choice((None, 1, 3)), rate, chance.choice((None, 1, 2, 4)))
        paused = self.rules.limits.get(group, GroupLimits()).paused
        await self.control.set_limits(self.world.queue, group, limits, paused=None)
        self.rules.set_limits(group, GroupLimits(limits.concurrency, rate, limits.weight, None, paused))

    async def pause(self) -> None:
        group = self.chance.choice(self.GROUPS)
        before = self.rules.limits.get(group, GroupLimits())
        paused = not before.paused
        await (self.control.pause if paused else self.control.resume)(self.world.queue, group)
        after = GroupLimits(before.concurrency, before.limit, before.weight, before.max_waiting, paused)
        self.rules.set_limits(group, after)

    async def default(self) -> None:
        self.rules.set_default(GroupDefault(self.chance.choice((None, 1, 2))))
        await self.start()

    async def promote(self) -> None:
        waiting = [(group, job) for group in self.GROUPS for job in self.rules.jobs(group)]
        if waiting:
            group, job = self.chance.choice(waiting)
            if await self.world.promote(job):
                self.rules.promote(group, job)
            await self.start()

    async def finish(self) -> None:
        """Let all jobs run to their end; nothing may be left."""
        for group in self.GROUPS:
            await self.control.remove_limits(self.world.queue, group)
            self.rules.set_limits(group, GroupLimits())
        while self.running or self.rules.waiting() or self.rules.plain:
            await self.start()
            await self.end()
        await self.start()
