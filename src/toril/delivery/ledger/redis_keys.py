"""The keys of a ledger in Redis: a hash and two lists per delivery, and the sorted sets to find deliveries by.

All keys share one hash tag, so that a step is one script in a cluster too.
"""

from __future__ import annotations

from collections.abc import Iterator

from toril.delivery.rules.delivery import Delivery
from toril.delivery.rules.lifecycle import OPEN, WAITING, Status


class LedgerKeys:
    """Names the keys.

    Args:
        prefix: of BullMQ's keys; the ledger's begin with it too.
    """

    def __init__(self, prefix: str) -> None:
        root = f"{prefix}:{{toril}}:ledger:"
        self._root = root
        self.targets = f"{root}targets"
        """A set of the names of all targets that ever had a delivery."""
        self.deadlines = f"{root}deadlines"
        """Waiting deliveries by deadline."""
        self.running = f"{root}running"
        """Attempts under way by the end of their lease."""
        self.check = f"{root}check"

    def row(self, job_id: str) -> str:
        """Return the hash of a delivery."""
        return f"{self._root}d:{job_id}"

    def transitions(self, job_id: str) -> str:
        """Return the list of a delivery's transitions."""
        return f"{self._root}t:{job_id}"

    def attempts(self, job_id: str) -> str:
        """Return the list of a delivery's attempts that are over; attempt 1 comes first."""
        return f"{self._root}a:{job_id}"

    def idempotency(self, target: str, key: str) -> str:
        """Return the key that holds the job id of an idempotency key."""
        return f"{self._root}k:{len(target)}:{target}:{key}"

    def ids(self, target: str | None) -> str:
        """Return the sorted set of the job ids of a target, or of all targets (None)."""
        return f"{self._root}ids" if target is None else f"{self._root}ids:{target}"

    def open(self, target: str, status: Status) -> str:
        """Return the sorted set of a target's unfinished deliveries in this status, by their acceptance."""
        return f"{self._root}open:{status}:{target}"

    def waiting(self, target: str) -> str:
        """Return the sorted set of a target's waiting deliveries, by job id."""
        return f"{self._root}waiting:{target}"

    def finished(self, target: str, status: Status) -> str:
        """Return the sorted set of a target's deliveries that were finished so, by when they were."""
        return f"{self._root}done:{status}:{target}"

    def memberships(self, one: Delivery) -> Iterator[tuple[str, float]]:
        """Yield the sorted sets that a delivery in this state belongs to, with its score in each."""
        if one.status in OPEN:
            yield self.open(one.target, one.status), one.created_at_s
        if one.status in WAITING:
            yield self.waiting(one.target), 0
            if one.deadline_s is not None:
                yield self.deadlines, one.deadline_s
        if one.status is Status.DISPATCHING and one.lease_until_s is not None:
            yield self.running, one.lease_until_s
        if one.finished_at_s is not None:
            yield self.finished(one.target, one.status), one.finished_at_s
