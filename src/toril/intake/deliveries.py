"""Takes deliveries in: spill a large body → commit to the ledger → put its job into the target's queue.

The ledger's row claims the idempotency key. From the commit on the delivery is toril's: should the queue not be there
just then, `toril.engine.ledger_recoverer` puts the job in later, and adding the same job again is harmless. Called by
`toril.gateway.deliveries` and `toril.gateway.dead_letters`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
from msgspec import Struct

from toril.core.blob import owner
from toril.core.delivery import (
    Accepted,
    Cancel,
    Delivery,
    Duplicate,
    Envelope,
    Inline,
    NewDelivery,
    Refused,
    Replay,
    Stored,
    Written,
    folder_of,
    is_job_id,
    new_job_id,
    queue_of,
)
from toril.core.delivery_job import job_of
from toril.core.enqueue import Submission, check_reserved, check_times
from toril.core.errors import (
    IdempotencyMismatch,
    JobNotFound,
    JobRefused,
    LedgerElsewhere,
    StoreError,
    StoreUnavailable,
    TorilError,
    UnknownTarget,
    unwrapped,
)
from toril.core.idempotency import fingerprint
from toril.core.lifecycle import WAITING, Status
from toril.core.ports.bodies import BlobStore
from toril.core.ports.jobs import Cancels, JobProducer
from toril.core.ports.ledger import AnyLedger, Filter
from toril.core.ports.shared import Now
from toril.core.target import TargetSpec
from toril.intake.spill import Spill

log = structlog.get_logger(__name__)

REQUEST = "request"
REPLAYED_AT_ONCE = 100
REPLAY_PAUSE_S = 0.1


T = TypeVar("T")


class Enqueued(Struct, frozen=True):
    """A delivery as it stands. `replayed`: it was accepted before, under the same key."""

    delivery: Delivery
    replayed: bool


class Bodies(Struct, frozen=True):
    """Where large bodies go, and how to be rid of one that nothing refers to."""

    spill: Spill
    store: BlobStore


class Queue(Struct, frozen=True):
    """The targets' queues: adding jobs, and taking them out even while they run."""

    producer: JobProducer
    jobs: Cancels


class Here(Struct, frozen=True):
    """This instance: how histories call it, its clock, its source of chance (so many bytes of it), and the ids of other
    ledgers that are at work on the same queues.
    """

    by: str
    now: Now
    entropy: Callable[[int], bytes]
    others: Callable[[], Sequence[str]] = tuple


class Deliveries:
    """Accepts, cancels and replays.

    Args:
        ledger: where they are kept.
        queue: where their jobs go.
        bodies: where large bodies go.
        targets: what is configured, by name; asked anew each time, since a reload changes it.
        here: this instance.
        unqueued: told when a job could not be put into its queue, so that the recoverer does it.
    """

    def __init__(
        self,
        ledger: AnyLedger,
        queue: Queue,
        bodies: Bodies,
        targets: Callable[[str], TargetSpec | None],
        here: Here,
        unqueued: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._bodies = bodies
        self._targets = targets
        self._by = here.by
        self._now = here.now
        self._entropy = here.entropy
        self._others = here.others
        self._unqueued = unqueued

    async def enqueue(self, submission: Submission) -> Enqueued:
        """Accept one delivery.

        Raises:
            UnknownTarget, InvalidEnvelope: nothing was written, and no key is taken.
            IdempotencyMismatch: another envelope has the key.
            StoreUnavailable: the ledger or the blob store did not answer. Nothing was accepted, or it will be
            delivered; a
                second try under the same key finds out.
        """
        new = await self._prepared(submission)
        (result,) = await self._ledger.accept([new])
        if isinstance(result, StoreError):
            raise result
        return await self._placed(new, result)

    async def enqueue_all(self, submissions: Sequence[Submission]) -> list[Enqueued | TorilError]:
        """Accept several, each for itself, in few commits and in their order; what was wrong with each that was not."""
        prepared = await self._prepared_all(submissions)
        new = [one for one in prepared if not isinstance(one, TorilError)]
        committed = await self._ledger.accept(new) if new else []
        results: list[Enqueued | TorilError] = []
        left = iter(zip(new, committed, strict=True))
        placing: list[tuple[int, NewDelivery, Accepted | Duplicate]] = []
        for one in prepared:
            if isinstance(one, TorilError):
                results.append(one)
                continue
            delivery, result = next(left)
            if isinstance(result, TorilError):
                results.append(result)
            else:
                placing.append((len(results), delivery, result))
                results.append(Enqueued(result.delivery, replayed=False))
        fresh = [result.delivery for _, _, result in placing if isinstance(result, Accepted)]
        await self._into_queue(fresh)
        for place, delivery, result in placing:
            if isinstance(result, Duplicate):
                results[place] = await self._attempted(self._placed(delivery, result))
        return results

    async def find(self, job_id: str) -> Delivery:
        """The delivery with this id, as it stands.

        Raises:
            JobNotFound: there is none.
            LedgerElsewhere: it is not in this ledger, but may be in that of another instance on this Redis.
        """
        one = await self._ledger.get(job_id) if is_job_id(job_id) else None
        if one is not None:
            return one
        if is_job_id(job_id) and self._others():
            raise LedgerElsewhere
        raise JobNotFound

    async def cancel(self, delivery: Delivery, by: str) -> Delivery:
        """Cancel it; a running attempt is broken off, wherever it runs.

        Raises:
            JobRefused: it is over.
            JobNotFound: it is gone.
        """
        result = await self._ledger.cancel(Cancel(job_id=delivery.job_id, by=by, at_s=self._now()))
        if isinstance(result, Refused):
            if result.delivery is None:
                raise JobNotFound
            status = result.delivery.status
            raise JobRefused(f"The job is over: {status}", state=status)
        try:
            await self._queue.jobs.cancel(queue_of(delivery.target), delivery.job_id)
        except (StoreError, JobRefused) as exc:
            # Cancelled it is all the same: no attempt of it begins any more, and its job leaves the queue when it
            # comes up.
            log.warning("delivery.cancel_not_queued", job_id=delivery.job_id, error=exc.message)
        return result.delivery

    async def replay(self, deliveries: Sequence[Delivery], by: str) -> list[str]:
        """Give dead letters a fresh budget, so many a second; the ids of those that were still dead letters."""
        replayed: list[str] = []
        for first in range(0, len(deliveries), REPLAYED_AT_ONCE):
            if first:
                await asyncio.sleep(REPLAY_PAUSE_S)
            with unwrapped():
                async with asyncio.TaskGroup() as tasks:
                    replaying = [
                        tasks.create_task(self._replay(one, by)) for one in deliveries[first : first + REPLAYED_AT_ONCE]
                    ]
            fresh = [written.delivery for task in replaying if isinstance(written := task.result(), Written)]
            await self._into_queue(fresh)
            replayed.extend(one.job_id for one in fresh)
        return replayed

    async def dead_letters(self, which: Filter, limit: int) -> list[Delivery]:
        """The newest dead letters that match."""
        found: list[Delivery] = []
        before: str | None = None
        while len(found) < limit:
            page = await self._ledger.page(which, before=before, limit=min(limit - len(found), 1000))
            found.extend(page)
            if not page:
                break
            before = page[-1].job_id
        return found

    async def purge(self, delivery: Delivery) -> None:
        """Remove a dead letter with all that belongs to it: what is left of it in its queue first, so that no job is
        without a row; then its row, so that no row ever refers to nothing.

        Raises:
            JobRefused: it is none.
        """
        if delivery.status is not Status.DEAD_LETTERED:
            raise JobRefused(f"The job is no dead letter but {delivery.status}", state=delivery.status)
        await self._queue.jobs.cancel(queue_of(delivery.target), delivery.job_id)
        names = [name for name in await self._ledger.blobs([delivery.job_id]) if owner(name) == delivery.job_id]
        await self._ledger.forget([delivery.job_id])
        if names and await self._ledger.get(delivery.job_id) is None:
            await self._bodies.store.delete(names)

    async def _replay(self, one: Delivery, by: str) -> Written | Refused:
        return await self._ledger.replay(Replay(job_id=one.job_id, by=by, at_s=self._now()))

    async def _prepared_all(self, submissions: Sequence[Submission]) -> list[NewDelivery | TorilError]:
        """Prepare several; a store that is away is not asked, and waited for, by each large body."""
        prepared: list[NewDelivery | TorilError] = []
        away: StoreUnavailable | None = None
        for one in submissions:
            found = await self._attempted(self._prepared(one, away))
            if isinstance(found, StoreUnavailable):
                away = found
            prepared.append(found)
        return prepared

    async def _prepared(self, submission: Submission, away: StoreUnavailable | None = None) -> NewDelivery:
        target = self._targets(submission.target)
        if target is None:
            raise UnknownTarget
        check_reserved(submission, target.auth)
        at_s = self._now()
        check_times(submission, at_s)
        job_id = new_job_id(at_s, self._entropy(10))
        content: Inline | Stored | None = None
        if submission.body is not None:
            content = Inline(submission.body)
            if self._bodies.spill.takes(submission.body):
                content = await self._spilled(job_id, submission.body, away)
        return NewDelivery(
            job_id=job_id,
            target=submission.target,
            envelope=Envelope(
                method=submission.method, path=submission.path, headers=submission.headers, content=content
            ),
            at_s=at_s,
            max_attempts=target.retry.max_attempts,
            by=self._by,
            idempotency_key=submission.idempotency_key,
            fingerprint=b"" if submission.idempotency_key is None else fingerprint(submission),
            not_before_s=submission.first_attempt_at_s(at_s),
            deadline_s=submission.deadline_s,
            priority=submission.priority,
            labels=submission.labels,
        )

    async def _spilled(self, job_id: str, body: bytes, away: StoreUnavailable | None) -> Inline | Stored:
        """Put a large body where its ledger's are. `away` is why that has just failed, and would again."""
        if away is not None:
            raise away
        folder = folder_of(await self._ledger.identity())
        kept = await self._bodies.spill.keep(folder, job_id, REQUEST, body)
        return Inline(kept) if isinstance(kept, bytes) else Stored(kept.name, kept.size_bytes)

    async def _placed(self, new: NewDelivery, result: Accepted | Duplicate) -> Enqueued:
        if isinstance(result, Accepted):
            await self._into_queue([result.delivery])
            return Enqueued(result.delivery, replayed=False)
        await self._discard(new)
        if result.fingerprint != new.fingerprint:
            raise IdempotencyMismatch
        if result.delivery.status in WAITING:
            # Whoever accepted it may have died before it was in the queue; a key must not hide that.
            await self._into_queue([result.delivery])
        return Enqueued(result.delivery, replayed=True)

    async def _discard(self, new: NewDelivery) -> None:
        """The body was put, and nothing refers to it."""
        content = new.envelope.content
        if isinstance(content, Stored):
            try:
                await self._bodies.store.delete([content.name])
            except StoreError as exc:  # the janitor finds it
                log.warning("delivery.body_left", name=content.name, error=exc.message)

    async def _into_queue(self, deliveries: Sequence[Delivery]) -> None:
        """Put the jobs of what was committed into their queues; where that fails the recoverer does it."""
        by_target: dict[str, list[Delivery]] = {}
        for one in deliveries:
            by_target.setdefault(one.target, []).append(one)
        for target, some in by_target.items():
            now_s = self._now()
            try:
                ledger_id = await self._ledger.identity()
                jobs = [job_of(one, now_s, ledger_id) for one in some]
                await self._queue.producer.add(queue_of(target), jobs, int(now_s * 1000))
            except StoreError as exc:
                log.warning("delivery.not_queued", target=target, jobs=len(some), error=exc.message)
                self._unqueued()

    async def _attempted(self, doing: Awaitable[T]) -> T | TorilError:
        try:
            return await doing
        except TorilError as exc:
            return exc
