"""A queue with groups that several instances work on: who starts next, and that slots are conserved."""

from typing import Any

from tests.simulation.queue_store import Broken, WatchedStore
from toril.bullmq.rules.groups import NEW, RETRIED, GroupLimits, GroupSchedule
from toril.core.group_limits import GroupDefault, GroupRate
from toril.core.lease import NOTHING, Lease, Next, NoJob
from toril.core.stored_job import read_options


class GroupedStore(WatchedStore):
    """A `WatchedStore` whose jobs start in the order that the rules of groups give, as toril's scripts have it.

    What waits is taken in at the next look. A slot is free when its job leaves the active ones, or its lock lapses.

    Args:
        queue: its name.
        default: the limits of groups that have none.
        limits: those of the others.
        options: as those of `FakeLeaseStore`.
    """

    def __init__(self, queue: str, default: GroupDefault, limits: dict[str, GroupLimits], **options: Any) -> None:
        super().__init__(queue, **options)
        self.schedule = GroupSchedule(default)
        self.schedule.limits |= limits
        # The waiting jobs that have been taken in, and the group of each job that holds a slot.
        self._taken_in: set[bytes] = set()
        self.slots: dict[bytes, str] = {}
        self.started: dict[str, list[float]] = {}

    def group_of(self, job_id: bytes) -> str | None:
        """Return the group of a job."""
        return read_options(self.jobs[job_id][b"opts"]).group

    def concurrency_of(self, group: str) -> int | None:
        """Return how many jobs of a group may run at once."""
        return self.schedule.limits.get(group, GroupLimits()).with_default(self.schedule.default).concurrency

    def look(self) -> list[tuple[bytes, str | None]]:
        """Check the jobs after a step, and that no group has more jobs with a lock than it may have."""
        busy: dict[str, list[bytes]] = {}
        for job_id in self.active:
            group = self.group_of(job_id) if job_id in self.jobs else None
            if group is not None and not self._lapsed(job_id):
                busy.setdefault(group, []).append(job_id)
                if self.slots.get(job_id) != group:
                    raise Broken(f"job {job_id.decode()} runs without a slot of its group {group}")
        for group, jobs in busy.items():
            most = self.concurrency_of(group)
            if most is not None and len(jobs) > most:
                raise Broken(f"group {group} has {len(jobs)} jobs of {most}: {jobs}")
        moved = super().look()
        # A slot that is free wakes those who were held back by it.
        if any(job_id in self.slots and place != "active" for job_id, place in moved):
            self._free()
            self._mark(self.queue, 0.0)
        return moved

    def _next(self, token: bytes) -> Next:
        now = self._now()
        self._promote(now)
        if now < self._held_until:
            return NoJob(retry_in_s=self._held_until - now)
        self._free()
        self._take_in()
        while (chosen := self.schedule.start(now * 1000)).job is not None:
            job_id = chosen.job.encode()
            self._taken_in.discard(job_id)
            if job_id in self.waiting and chosen.group is not None:
                self.waiting.remove(job_id)
                self.slots[job_id] = chosen.group
                self.started.setdefault(chosen.group, []).append(now)
                return self._start(job_id, token)
            if job_id in self.waiting:
                self.waiting.remove(job_id)
                return self._start(job_id, token)
            if chosen.group is not None:
                self.schedule.free(chosen.group, chosen.job)  # it was removed while it waited
        next_at = [*self.delayed.values(), chosen.at / 1000]
        if self.schedule.waiting():
            next_at += [self.active[job_id][1] for job_id in self.slots]  # when a lock may lapse
        return NoJob(next_at_s=min(next_at)) if min(next_at) < float("inf") else NOTHING

    def _free(self) -> None:
        """Free the slots of jobs that are no longer active, or whose lock has lapsed."""
        for job_id, group in list(self.slots.items()):
            if job_id not in self.active or self._lapsed(job_id):
                if job_id in self.active:
                    self.lapse(job_id)  # for good, also where the clock jumps back
                del self.slots[job_id]
                self.schedule.free(group, job_id.decode())

    def _take_in(self) -> None:
        for job_id in self.waiting:
            if job_id in self._taken_in:
                continue
            self._taken_in.add(job_id)
            group = self.group_of(job_id)
            if group is None:
                self.schedule.plain.append(job_id.decode())
            else:
                self.schedule.add(group, job_id.decode(), 0, RETRIED if b"ats" in self.jobs[job_id] else NEW)

    def _may_renew(self, lease: Lease) -> bool:
        """As toril's scripts: a lapsed lock is not taken back where its slot has been freed."""
        has_slot = lease.options.group is None or lease.job_id in self.slots
        return super()._may_renew(lease) and (has_slot or not self._lapsed(lease.job_id))


def rates_kept(store: GroupedStore) -> list[str]:
    """Return the groups that started more jobs in a time than their rate allows."""
    broken = []
    for group, times in store.started.items():
        rate = store.schedule.limits.get(group, GroupLimits()).with_default(store.schedule.default).limit
        if rate is not None and _too_many(times, rate):
            broken.append(group)
    return broken


def _too_many(times: list[float], rate: GroupRate) -> bool:
    # GCRA allows a burst of `max`, and then one each `duration / max`: less than twice `max` in any `duration`.
    span_s = rate.duration / 1000
    return any(sum(at <= one < at + span_s for one in times) > 2 * rate.max for at in times)
