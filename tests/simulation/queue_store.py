"""The jobs of a queue that several instances work on, and what must be true of them after every step."""

from typing import Any

from toril.core.errors import LeaseLost, WrongLockToken
from toril.core.lease import Lease
from toril.testing import FakeLeaseStore

NEXT: dict[str | None, frozenset[str | None]] = {
    None: frozenset({"waiting", "delayed"}),
    "waiting": frozenset({"active", None}),
    "delayed": frozenset({"waiting", "active", None}),
    "active": frozenset({"waiting", "delayed", "completed", "failed", None}),
    "completed": frozenset({None}),
    "failed": frozenset({None}),
}
"""Where a job may be after each place; None is nowhere: not added, removed or flushed."""


class Broken(AssertionError):
    """Something that must always be true is not."""


class WatchedStore(FakeLeaseStore):
    """A `FakeLeaseStore` that several instances share.

    `accepted` has the ids that callers were told are there, `removed` those that a caller has removed, `ends` how each
    job has ended. With `removes`, jobs that have ended leave the queue, as those of deliveries do.
    """

    def __init__(self, queue: str, *, removes: bool = False, **options: Any) -> None:
        super().__init__(queue, **options)
        self.removes = removes
        self.accepted: dict[bytes, int] = {}
        self.removed: set[bytes] = set()
        self.ends: dict[bytes, str] = {}
        self.starts: dict[bytes, int] = {}
        self.places: dict[bytes, str] = {}
        self.flushes = 0
        self.stale: str | None = None

    def accept(self, job_id: str, attempts: int, **options: Any) -> None:
        """Add a job that a caller is told of."""
        key = self.add(job_id, opts={"attempts": attempts, **options.pop("opts", {})}, **options)
        self.accepted[key] = attempts

    def remove(self, job_id: bytes) -> bool:
        """Remove a job in any state, with its lock."""
        found = self.jobs.pop(job_id, None) is not None
        for kept in (self.delayed, self.active, self.completed, self.failed):
            kept.pop(job_id, None)
        if job_id in self.waiting:
            self.waiting.remove(job_id)
        if found:
            self.removed.add(job_id)
        return found

    def flush(self) -> None:
        """Lose everything."""
        self.flushes += 1
        for job_id in list(self.jobs):
            self.remove(job_id)
        self.lift_limit()

    def hold(self, for_ms: int) -> None:
        """Let no job begin for this time."""
        self._held_until = max(self._held_until, self._now() + for_ms / 1000)

    def _require(self, lease: Lease) -> None:
        super()._require(lease)
        if lease.fields[b"ats"] != self.jobs[lease.job_id][b"ats"]:
            self.stale = f"job {lease.job_id.decode()} was settled by a lease from before its last start"

    def sweep_ended(self) -> None:
        """Remove what has ended, where jobs are not kept."""
        if self.removes:
            for ended in (self.completed, self.failed):
                for job_id in list(ended):
                    del ended[job_id]
                    self.jobs.pop(job_id, None)

    async def held(self, job_id: bytes, token: bytes) -> Lease:
        """As `PullStore.held`."""
        if job_id not in self.active or self._lapsed(job_id):
            raise LeaseLost(state=self.places.get(job_id, "unknown"))
        if self.active[job_id][0] != token:
            raise WrongLockToken
        return self._lease(job_id, token)

    async def note_length(self, lease: Lease) -> None:
        """As `PullStore.note_length`, where all leases have one length."""

    async def recover_lapsed(self, within_ms: int) -> list[bytes]:
        """As `PullStore.recover_lapsed`."""
        return await self.recover_stalled()

    def look(self) -> list[tuple[bytes, str | None]]:
        """Check the jobs after a step; return those that have moved, and where they are now. Raises `Broken`."""
        if self.stale is not None:
            raise Broken(self.stale)
        places: dict[bytes, str] = {}
        for place, kept in (
            ("waiting", self.waiting),
            ("delayed", self.delayed),
            ("active", self.active),
            ("completed", self.completed),
            ("failed", self.failed),
        ):
            for job_id in kept:
                if job_id in places:
                    raise Broken(f"job {job_id.decode()} is both {places[job_id]} and {place}")
                places[job_id] = place
        if places == self.places:
            return []
        moved: list[tuple[bytes, str | None]] = [
            *((job_id, place) for job_id, place in places.items() if self.places.get(job_id) != place),
            *((job_id, None) for job_id in self.places if job_id not in places),
        ]
        moved.sort(key=lambda move: move[0])
        for job_id, place in moved:
            self._moved(job_id, self.places.get(job_id), place)
        self.places = places
        self.sweep_ended()
        if self.removes:
            self.places = {job_id: place for job_id, place in places.items() if place not in ("completed", "failed")}
        return moved

    def _moved(self, job_id: bytes, source: str | None, to: str | None) -> None:
        shown = job_id.decode()
        if to not in NEXT[source]:
            raise Broken(f"job {shown} went from {source} to {to}")
        if to is None and job_id not in self.removed:
            raise Broken(f"job {shown} was {source}, and is nowhere")
        if to in ("completed", "failed"):
            if job_id in self.ends and not self.removes:
                raise Broken(f"job {shown} has ended twice: {self.ends[job_id]}, and then {to}")
            self.ends[job_id] = to
        if to == "active":
            self.starts[job_id] = self.starts.get(job_id, 0) + 1
        fields = self.jobs.get(job_id)
        made = int(fields.get(b"atm", b"0")) if fields else 0
        if made > max(1, self.accepted.get(job_id, made)):
            raise Broken(f"job {shown} has made {made} attempts of {self.accepted[job_id]}")
