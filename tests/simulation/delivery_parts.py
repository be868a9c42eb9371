"""What stands behind an instance's lines in a delivery world: the ledger, the target's queue, large bodies."""

from collections.abc import AsyncIterator, Callable, Sequence

from msgspec import UNSET

from tests.simulation.queue_store import Broken, WatchedStore
from tests.simulation.wire import BLOBS, LEDGER, Line, Wired
from toril.bullmq.rules.job import JobSpec
from toril.core.blob import Blob
from toril.core.errors import LedgerUnavailable, StoreError
from toril.delivery.rules.changes import Accepted, Duplicate
from toril.delivery.rules.decisions import DEADLINE
from toril.delivery.rules.delivery import AttemptOutcome, Delivery, NewDelivery, Stored
from toril.delivery.rules.destination import ATTEMPTS, REFUSED
from toril.delivery.rules.lifecycle import OPEN, Status, faults
from toril.testing import FakeBlobs, FakeLedger

_LEDGER_CALLS = frozenset(
    {"accept_all", "begin", "end", "cancel", "expire", "lose", "get", "some", "waiting", "overrun", "expired", "forget"}
)


class WatchedLedger(FakeLedger):
    """A ledger whose deliveries are checked after each step."""

    def __init__(self, blobs: FakeBlobs) -> None:
        super().__init__()
        self.good: set[str] = set()
        self.ever: set[str] = set()
        self._blobs = blobs
        self._seen: dict[str, Delivery] = {}

    async def accept_all(self, deliveries: Sequence[NewDelivery]) -> list[Accepted | Duplicate | StoreError]:
        """As `accept`; by another name, which `WiredLedger` does not have."""
        return await super().accept(deliveries)

    def look(self) -> list[Delivery]:
        """Check the deliveries that a step has changed, and return them. Raises `Broken`."""
        changed = [one for job_id, one in self.deliveries.items() if self._seen.get(job_id) is not one]
        for one in changed:
            self._check(one)
            self._seen[one.job_id] = one
            self.ever.add(one.job_id)
        return changed

    def _check(self, one: Delivery) -> None:
        wrong = faults(self.transitions[one.job_id])
        if wrong:
            raise Broken(f"delivery {one.job_id}: {wrong}")
        if one.attempts_made > one.max_attempts:
            raise Broken(f"delivery {one.job_id} has made {one.attempts_made} attempts of {one.max_attempts}")
        numbers = [attempt.number for attempt in self.attempts[one.job_id]]
        if numbers != list(range(1, len(numbers) + 1)) or len(numbers) > one.attempts_begun:
            raise Broken(f"delivery {one.job_id} has the attempts {numbers} of {one.attempts_begun}")
        if one.status is Status.DELIVERED and one.job_id not in self.good:
            raise Broken(f"delivery {one.job_id} counts as delivered, and its target never took it")
        if one.status is Status.DEAD_LETTERED:
            used_up = one.attempts_made >= one.max_attempts
            if one.reason not in (ATTEMPTS, REFUSED, DEADLINE) or (one.reason == ATTEMPTS and not used_up):
                raise Broken(f"delivery {one.job_id} became a dead letter for {one.reason}")
        content = self.envelopes[one.job_id].content
        if one.status in OPEN and isinstance(content, Stored) and content.name not in self._blobs.bodies:
            raise Broken(f"delivery {one.job_id} is {one.status} and has lost its body")

    def lost_attempts(self) -> list[str]:
        """Return the deliveries with an attempt that was recorded as lost."""
        return [
            job_id
            for job_id, attempts in self.attempts.items()
            if any(attempt.outcome == AttemptOutcome.LOST for attempt in attempts)
        ]


class WiredLedger(Wired):
    """A ledger behind a line."""

    def __init__(self, ledger: FakeLedger, line: Line) -> None:
        super().__init__(ledger, line, LEDGER, repeatable=_LEDGER_CALLS)

    async def accept(self, deliveries: Sequence[NewDelivery]) -> list[Accepted | Duplicate | StoreError]:
        """As `Ledger.accept`, which raises nothing."""
        try:
            accepted: list[Accepted | Duplicate | StoreError] = await self.__getattr__("accept_all")(deliveries)
        except LedgerUnavailable as exc:
            return [exc for _ in deliveries]
        return accepted


class WiredBlobs(Wired):
    """Large bodies behind a line; they are listed as they are."""

    def __init__(self, blobs: FakeBlobs, line: Line) -> None:
        super().__init__(blobs, line, BLOBS, repeatable=frozenset({"put", "get", "delete"}))

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """As `BlobStore.stream`, in one piece."""
        yield await self.get(name)

    def list(self, folder: str) -> AsyncIterator[Blob]:
        """As `BlobStore.list`."""
        found: AsyncIterator[Blob] = self._port.list(folder)
        return found


class TargetJobs:
    """Producer, finder, canceller and holds of one target's queue."""

    def __init__(self, store: WatchedStore, announce: Callable[[str, str], None]) -> None:
        self._store = store
        self._announce = announce

    async def add(self, queue: str, jobs: Sequence[JobSpec], now_ms: int, *, again: bool = False) -> list[bytes]:
        """Add jobs that are not there."""
        for job in jobs:
            assert job.opts is not None
            job_id = str(job.opts.jobId)
            if job_id.encode() not in self._store.jobs:
                delay = 0 if job.opts.delay is UNSET else int(job.opts.delay)
                self._store.add(job_id, opts={"attempts": 1}, data=bytes(job.data), delay_s=delay / 1000)
        return [b"" for _ in jobs]

    async def missing(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """Return those that no job has."""
        return [job_id for job_id in job_ids if job_id.encode() not in self._store.jobs]

    async def held(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """Return those that are locked."""
        active = self._store.active
        return [job_id for job_id in job_ids if job_id.encode() in active and not self._store._lapsed(job_id.encode())]

    async def cancel(self, queue: str, job_id: str) -> bool:
        """Remove a job, and let its worker know."""
        found = self._store.remove(job_id.encode())
        if found:
            self._announce(queue, job_id)
        return found

    async def hold(self, queue: str, for_ms: int) -> None:
        """Let no job begin for a while."""
        self._store.hold(for_ms)

    async def let_go(self, queue: str) -> None:
        """End a hold."""
        self._store.lift_limit()

    async def paused(self, queue: str) -> bool:
        """Return False: targets are not paused here."""
        return False
