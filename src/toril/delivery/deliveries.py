"""Accepts, finds, cancels, replays and purges deliveries.

To accept one: offload a large body → commit to the ledger → add its job to the target's queue. The ledger's row claims
the idempotency key. From the commit on, toril owns the delivery: if its job cannot be added, the recoverer adds it
later, and adding the same job again changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
from msgspec import Struct

from toril.core.blob import owner
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
from toril.core.metrics import IDEMPOTENT_REPLAYS, UNMETERED
from toril.core.ports import Meter, Now
from toril.delivery.ports import AnyLedger, DeliveryFilter
from toril.delivery.rules.changes import Accepted, Cancel, Duplicate, Refused, Replay, Written
from toril.delivery.rules.delivery import (
    Delivery,
    Envelope,
    Inline,
    NewDelivery,
    Stored,
    folder_of,
    is_job_id,
    new_job_id,
    queue_of,
)
from toril.delivery.rules.delivery_group import check_group_in, group_of
from toril.delivery.rules.enqueue import EnqueueRequest, check_reserved, check_times
from toril.delivery.rules.idempotency import fingerprint
from toril.delivery.rules.lifecycle import WAITING, Status
from toril.delivery.rules.target import ReplayKey, TargetSpec
from toril.delivery.target_queues import TargetQueues
from toril.payloads.payload_offload import PayloadOffload
from toril.payloads.ports import BlobStore

log = structlog.get_logger(__name__)

REQUEST = "request"
REPLAYED_AT_ONCE = 100
REPLAY_PAUSE_S = 0.1


T = TypeVar("T")


class Enqueued(Struct, frozen=True):
    """The current state of a delivery. `replayed` is True if it was accepted earlier under the same key."""

    delivery: Delivery
    replayed: bool


class DeliveryBodies(Struct, frozen=True):
    """The service that offloads large bodies, and their store."""

    offload: PayloadOffload
    store: BlobStore


class InstanceContext(Struct, frozen=True):
    """The instance's name in histories (`by`), its clock and its source of random bytes; `others` returns the ids of
    other ledgers whose instances work on the same queues. `meter` counts envelopes that were replayed.
    """

    by: str
    now: Now
    entropy: Callable[[int], bytes]
    others: Callable[[], Sequence[str]] = tuple
    meter: Meter = UNMETERED


class Deliveries:
    """The operations of the API on deliveries.

    Args:
        ledger: keeps the deliveries.
        queues: the targets' queues.
        bodies: keeps large bodies.
        targets: returns the target with a name; called each time, since a reload may change it.
        context: this instance.
        unqueued: called when a job could not be added to its queue, so that the recoverer adds it soon.
    """

    def __init__(
        self,
        ledger: AnyLedger,
        queues: TargetQueues,
        bodies: DeliveryBodies,
        targets: Callable[[str], TargetSpec | None],
        context: InstanceContext,
        unqueued: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._queues = queues
        self._bodies = bodies
        self._targets = targets
        self._by = context.by
        self._now = context.now
        self._entropy = context.entropy
        self._others = context.others
        self._unqueued = unqueued
        self._meter = context.meter

    async def enqueue(self, submission: EnqueueRequest) -> Enqueued:
        """Accept one delivery.

        Raises:
            UnknownTarget, InvalidEnvelope, GroupFull: nothing was written, and no key is taken.
            IdempotencyMismatch: another envelope has the key.
            StoreUnavailable: the ledger or the blob store did not answer. The delivery was not accepted, or it was and
                will be delivered; a second try under the same key finds out.
        """
        new = await self._prepared(submission)
        (result,) = await self._accepted([new])
        if isinstance(result, StoreError):
            raise result
        return await self._placed(new, result)

    async def enqueue_all(self, submissions: Sequence[EnqueueRequest]) -> list[Enqueued | TorilError]:
        """Accept several in order, in few commits; return for each the delivery, or the error that kept it out."""
        prepared = await self._prepared_all(submissions)
        new = [one for one in prepared if not isinstance(one, TorilError)]
        committed = await self._accepted(new) if new else []
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
        """Return the delivery with this id.

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
        """Cancel a delivery. A running attempt is aborted, on whichever instance it runs.

        Raises:
            JobRefused: it has finished.
            JobNotFound: it no longer exists.
        """
        result = await self._ledger.cancel(Cancel(job_id=delivery.job_id, by=by, at_s=self._now()))
        if isinstance(result, Refused):
            if result.delivery is None:
                raise JobNotFound
            status = result.delivery.status
            raise JobRefused(f"The job is over: {status}", state=status)
        try:
            await self._queues.cancelling.cancel(queue_of(delivery.target), delivery.job_id)
        except (StoreError, JobRefused) as exc:
            # The ledger has it as cancelled, so no attempt begins; its job leaves the queue when a worker takes it.
            log.warning("delivery.cancel_not_queued", job_id=delivery.job_id, error=exc.message)
        return result.delivery

    async def replay(self, deliveries: Sequence[Delivery], by: str, key: ReplayKey | None = None) -> list[str]:
        """Give dead letters a fresh budget, a limited number per second; return the ids of those replayed.

        Without a `key` the policy of the target says which key is sent.
        """
        replayed: list[str] = []
        for first in range(0, len(deliveries), REPLAYED_AT_ONCE):
            if first:
                await asyncio.sleep(REPLAY_PAUSE_S)
            try:
                with unwrapped():
                    async with asyncio.TaskGroup() as tasks:
                        replaying = [
                            tasks.create_task(self._replay(one, by, key))
                            for one in deliveries[first : first + REPLAYED_AT_ONCE]
                        ]
            except StoreError:
                self._unqueued()  # some may be replayed, and have no job yet
                raise
            fresh = [written.delivery for task in replaying if isinstance(written := task.result(), Written)]
            await self._into_queue(fresh)
            replayed.extend(one.job_id for one in fresh)
        return replayed

    async def dead_letters(self, which: DeliveryFilter, limit: int) -> list[Delivery]:
        """Return the newest dead letters that match."""
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
        """Remove a dead letter with all that belongs to it.

        Its job goes first, so that no job is left without a row; then its row, so that no row refers to a missing body.

        Raises:
            JobRefused: it is not a dead letter.
        """
        if delivery.status is not Status.DEAD_LETTERED:
            raise JobRefused(f"The job is no dead letter but {delivery.status}", state=delivery.status)
        await self._queues.cancelling.cancel(queue_of(delivery.target), delivery.job_id)
        names = [name for name in await self._ledger.blobs([delivery.job_id]) if owner(name) == delivery.job_id]
        await self._ledger.forget([delivery.job_id])
        if names and await self._ledger.get(delivery.job_id) is None:
            await self._bodies.store.delete(names)

    async def _replay(self, one: Delivery, by: str, key: ReplayKey | None) -> Written | Refused:
        target = self._targets(one.target)
        wanted = key or ("keep" if target is None else target.replay_key)
        change = Replay(job_id=one.job_id, by=by, at_s=self._now(), new_key=wanted == "new")
        return await self._ledger.replay(change)

    async def _prepared_all(self, submissions: Sequence[EnqueueRequest]) -> list[NewDelivery | TorilError]:
        """Prepare several. Once the blob store has failed, the remaining large bodies fail without asking it again."""
        prepared: list[NewDelivery | TorilError] = []
        away: StoreUnavailable | None = None
        for one in submissions:
            found = await self._attempted(self._prepared(one, away))
            if isinstance(found, StoreUnavailable):
                away = found
            prepared.append(found)
        return prepared

    async def _prepared(self, submission: EnqueueRequest, away: StoreUnavailable | None = None) -> NewDelivery:
        target = self._targets(submission.target)
        if target is None:
            raise UnknownTarget
        check_reserved(submission, target.auth)
        at_s = self._now()
        check_times(submission, at_s)
        if submission.group is None:
            check_group_in(submission.labels, target.group_by)
        job_id = submission.job_id or new_job_id(at_s, self._entropy(10))
        group = group_of(submission.group, submission.labels, target.group_by)
        if submission.first_attempt_at_s(at_s) is None:
            await self._queues.take_room(target.name, group, job_id)
        try:
            content = await self._content(job_id, submission.body, away)
        except TorilError:
            await self._queues.free_room(target.name, group, job_id)
            raise
        return NewDelivery(
            job_id=job_id,
            target=submission.target,
            envelope=Envelope(
                method=submission.method, path=submission.path, headers=submission.sent_headers, content=content
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
            group=submission.group,
        )

    async def _accepted(self, new: Sequence[NewDelivery]) -> list[Accepted | Duplicate | StoreError]:
        """Write deliveries into the ledger, and free the room of those that it does not take."""
        results = await self._ledger.accept(new)
        refused = [one for one, result in zip(new, results, strict=True) if not isinstance(result, Accepted)]
        if refused:
            await asyncio.gather(*map(self._free_room, refused))
        return results

    async def _free_room(self, one: NewDelivery) -> None:
        target = self._targets(one.target)
        if target is not None:
            group = group_of(one.group, one.labels, target.group_by)
            await self._queues.free_room(one.target, group, one.job_id)

    async def _content(self, job_id: str, body: bytes | None, away: StoreUnavailable | None) -> Inline | Stored | None:
        if body is None:
            return None
        return await self._offloaded(job_id, body, away) if self._bodies.offload.takes(body) else Inline(body)

    async def _offloaded(self, job_id: str, body: bytes, away: StoreUnavailable | None) -> Inline | Stored:
        """Store a large body in the folder of the ledger. Raise `away` if given: the store has just failed with it."""
        if away is not None:
            raise away
        folder = folder_of(await self._ledger.identity())
        kept = await self._bodies.offload.keep(folder, job_id, REQUEST, body)
        return Inline(kept) if isinstance(kept, bytes) else Stored(kept.name, kept.size_bytes)

    async def _placed(self, new: NewDelivery, result: Accepted | Duplicate) -> Enqueued:
        if isinstance(result, Accepted):
            await self._into_queue([result.delivery])
            return Enqueued(result.delivery, replayed=False)
        await self._discard(new)
        if result.fingerprint != new.fingerprint:
            raise IdempotencyMismatch
        if result.delivery.status in WAITING:
            # The instance that accepted it may have crashed before it added the job: add it again.
            await self._into_queue([result.delivery], again=True)
        self._meter.count(IDEMPOTENT_REPLAYS, (queue_of(new.target),))
        return Enqueued(result.delivery, replayed=True)

    async def _discard(self, new: NewDelivery) -> None:
        """Delete the body of a duplicate: it was stored, and no row refers to it."""
        content = new.envelope.content
        if isinstance(content, Stored):
            try:
                await self._bodies.store.delete([content.name])
            except StoreError as exc:  # the janitor will find it
                log.warning("delivery.body_left", name=content.name, error=exc.message)

    async def _into_queue(self, deliveries: Sequence[Delivery], *, again: bool = False) -> None:
        """Add the jobs of committed deliveries to their queues. Where that fails, the recoverer does it later."""
        by_target: dict[str, list[Delivery]] = {}
        for one in deliveries:
            by_target.setdefault(one.target, []).append(one)
        for target, some in by_target.items():
            now_s = self._now()
            try:
                ledger_id = await self._ledger.identity()
                await self._queues.add(target, some, now_s, ledger_id, again=again)
            except StoreError as exc:
                log.warning("delivery.not_queued", target=target, jobs=len(some), error=exc.message)
                self._unqueued()

    async def _attempted(self, doing: Awaitable[T]) -> T | TorilError:
        try:
            return await doing
        except TorilError as exc:
            return exc
