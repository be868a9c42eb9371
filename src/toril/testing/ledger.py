"""The ledger, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from toril.core.errors import LedgerUnavailable, StoreError
from toril.delivery.ports import DeliveryFilter, DeliveryHistory, TargetDepth
from toril.delivery.rules.changes import (
    Accepted,
    Begin,
    Begun,
    Cancel,
    Change,
    Duplicate,
    End,
    Expire,
    Lose,
    Refused,
    Replay,
    Written,
)
from toril.delivery.rules.decisions import Decision, begun, decide, written
from toril.delivery.rules.delivery import AttemptRecord, Delivery, Envelope, NewDelivery, Stored, TargetResponse
from toril.delivery.rules.lifecycle import OPEN, TERMINAL, WAITING, Status, Transition


class FakeLedger:
    """Keeps the promises of `Ledger`, `LedgerReader` and `LedgerUpkeep`. Gone with the process."""

    def __init__(self, ledger_id: str = "fake") -> None:
        self.ledger_id = ledger_id
        self.deliveries: dict[str, Delivery] = {}
        self.envelopes: dict[str, Envelope] = {}
        self.transitions: dict[str, list[Transition]] = {}
        self.attempts: dict[str, list[AttemptRecord]] = {}
        self.responses: dict[str, TargetResponse] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._fingerprints: dict[str, bytes] = {}
        self._fault: StoreError | None = None

    def go_away(self, fault: StoreError | None = None) -> None:
        """Make every call raise `LedgerUnavailable`, or the given error."""
        self._fault = fault or LedgerUnavailable()

    def come_back(self) -> None:
        """Make calls work again."""
        self._fault = None

    async def accept(self, deliveries: Sequence[NewDelivery]) -> list[Accepted | Duplicate | StoreError]:
        """As `Ledger.accept`."""
        return [self._fault or self._accept(new) for new in deliveries]

    async def begin(self, change: Begin) -> Begun | Refused:
        """As `Ledger.begin`."""
        return begun(self._write(change), self.envelopes.get(change.job_id))

    async def end(self, change: End) -> Written | Refused:
        """As `Ledger.end`."""
        return written(self._write(change))

    async def cancel(self, change: Cancel) -> Written | Refused:
        """As `Ledger.cancel`."""
        return written(self._write(change))

    async def replay(self, change: Replay) -> Written | Refused:
        """As `Ledger.replay`."""
        return written(self._write(change))

    async def expire(self, change: Expire) -> Written | Refused:
        """As `Ledger.expire`."""
        return written(self._write(change))

    async def lose(self, change: Lose) -> Written | Refused:
        """As `Ledger.lose`."""
        return written(self._write(change))

    async def get(self, job_id: str) -> Delivery | None:
        """As `LedgerReader.get`."""
        self._there()
        return self.deliveries.get(job_id)

    async def some(self, job_ids: Sequence[str]) -> dict[str, Delivery]:
        """As `LedgerReader.some`."""
        self._there()
        return {job_id: self.deliveries[job_id] for job_id in job_ids if job_id in self.deliveries}

    async def history(self, job_id: str) -> DeliveryHistory | None:
        """As `LedgerReader.history`."""
        self._there()
        delivery = self.deliveries.get(job_id)
        if delivery is None:
            return None
        return DeliveryHistory(
            delivery, list(self.transitions[job_id]), list(self.attempts[job_id]), self.responses.get(job_id)
        )

    async def envelope(self, job_id: str) -> Envelope | None:
        """As `LedgerReader.envelope`."""
        return self.envelopes.get(job_id)

    async def page(self, which: DeliveryFilter, *, before: str | None, limit: int) -> list[Delivery]:
        """As `LedgerReader.page`."""
        self._there()
        found = [one for one in self._all() if which.matches(one) and (before is None or one.job_id < before)]
        return found[::-1][:limit]

    async def depth(self, target: str) -> TargetDepth:
        """As `LedgerReader.depth`."""
        self._there()
        mine = [one for one in self._all() if one.target == target]
        counts = {status: sum(one.status is status for one in mine) for status in Status}
        return TargetDepth(
            queued=counts[Status.QUEUED],
            dispatching=counts[Status.DISPATCHING],
            retrying=counts[Status.RETRYING],
            dead_letters=counts[Status.DEAD_LETTERED],
            oldest_s=min((one.created_at_s for one in mine if one.status in OPEN), default=None),
        )

    async def check(self) -> None:
        """As `LedgerReader.check`."""
        self._there()

    async def identity(self) -> str:
        """As `LedgerReader.identity`."""
        self._there()
        return self.ledger_id

    async def waiting(self, target: str, *, due_before_s: float, after: str | None, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.waiting`."""
        self._there()
        found = [
            one
            for one in self._all()
            if (one.target, one.status in WAITING) == (target, True)
            and (one.next_attempt_at_s or 0.0) < due_before_s
            and one.job_id > (after or "")
        ]
        return found[:limit]

    async def overrun(self, at_s: float, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.overrun`."""
        self._there()
        running = [one for one in self._all() if one.status is Status.DISPATCHING]
        return [one for one in running if one.lease_until_s is not None and one.lease_until_s <= at_s][:limit]

    async def expired(self, at_s: float, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.expired`."""
        self._there()
        waiting = [one for one in self._all() if one.status in WAITING]
        return [one for one in waiting if one.deadline_s is not None and one.deadline_s <= at_s][:limit]

    async def finished(self, target: str, status: Status, before_s: float, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.finished`."""
        self._there()
        ends = [
            (one.finished_at_s, one.job_id, one)
            for one in self._all()
            if one.target == target and one.status is status and one.finished_at_s is not None
        ]
        return [one for at_s, _, one in sorted(ends, key=lambda end: end[:2]) if at_s < before_s][:limit]

    async def blobs(self, job_ids: Sequence[str]) -> list[str]:
        """As `LedgerUpkeep.blobs`."""
        self._there()
        contents = [self.envelopes[job_id].content for job_id in job_ids if job_id in self.envelopes]
        contents += [self.responses[job_id].content for job_id in job_ids if job_id in self.responses]
        return [content.name for content in contents if isinstance(content, Stored)]

    async def forget(self, job_ids: Sequence[str]) -> None:
        """As `LedgerUpkeep.forget`."""
        self._there()
        for job_id in job_ids:
            delivery = self.deliveries.get(job_id)
            if delivery is None or delivery.status not in TERMINAL:
                continue
            for kept in (self.deliveries, self.envelopes, self.transitions, self.attempts, self.responses):
                kept.pop(job_id, None)
            self._fingerprints.pop(job_id, None)
            if delivery.idempotency_key is not None:
                self._keys.pop((delivery.target, delivery.idempotency_key), None)

    async def targets(self) -> list[str]:
        """As `LedgerUpkeep.targets`."""
        self._there()
        return sorted({one.target for one in self.deliveries.values()})

    def _there(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _all(self) -> list[Delivery]:
        return [self.deliveries[job_id] for job_id in sorted(self.deliveries)]

    def _accept(self, new: NewDelivery) -> Accepted | Duplicate:
        if new.job_id in self.deliveries:
            return Accepted(self.deliveries[new.job_id])
        if new.idempotency_key is not None:
            there = self._keys.setdefault((new.target, new.idempotency_key), new.job_id)
            if there != new.job_id:
                return Duplicate(self.deliveries[there], self._fingerprints[there])
        delivery, transition = new.first()
        self.deliveries[new.job_id] = delivery
        self.envelopes[new.job_id] = new.envelope
        self.transitions[new.job_id] = [transition]
        self.attempts[new.job_id] = []
        self._fingerprints[new.job_id] = new.fingerprint
        return Accepted(delivery)

    def _write(self, change: Change) -> Decision | Written | Refused:
        self._there()
        delivery = self.deliveries.get(change.job_id)
        if delivery is None:
            return Refused(None)
        decided = decide(change, delivery)
        if isinstance(decided, Decision):
            self.deliveries[change.job_id] = decided.delivery
            self.transitions[change.job_id].extend(decided.transitions)
            for attempt in decided.attempts:
                self.attempts[change.job_id][attempt.number - 1 :] = [attempt]
            if decided.response is not None:
                self.responses[change.job_id] = decided.response
        return decided
