"""Batches of the SQL ledgers: how large an operation is, and what a batch of changes makes of the rows it touches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toril.delivery.ledger.sql_rows import Row, attempt_row, delivery_of, transition_row
from toril.delivery.rules.changes import Begin, Change, End, Refused, Written
from toril.delivery.rules.decisions import Decision, decide, needs_envelope
from toril.delivery.rules.delivery import Delivery, Envelope, Inline, NewDelivery, TargetResponse
from toril.delivery.rules.row_codec import unpack_envelope

Decided = tuple[Decision | Written | Refused, Envelope | None]
"""What was decided on a change, with the envelope where an attempt begins."""


def size_of(new: NewDelivery) -> int:
    """Return about how many bytes a delivery takes in a batch."""
    envelope = new.envelope
    content = envelope.content
    size_bytes = 500 + len(envelope.path or "")
    for name, value in envelope.headers:
        size_bytes += len(name) + len(value)
    for name, value in new.labels.items():
        size_bytes += len(name) + len(value)
    if new.group is not None:
        size_bytes += len(new.group.name)
    return size_bytes + (len(content.data) if isinstance(content, Inline) else 0)


def size_of_change(change: Change) -> int:
    """Return about how many bytes a change takes in a batch."""
    size_bytes = 500
    if isinstance(change, End) and change.response is not None:
        content = change.response.content
        if isinstance(content, Inline):
            size_bytes += len(content.data)
        for name, value in change.response.headers:
            size_bytes += len(name) + len(value)
    return size_bytes


def begun_of(batch: Sequence[Change]) -> dict[str, Delivery]:
    """Return the deliveries that need not be read, by id: the batch has nothing of them but the end of an attempt."""
    found: dict[str, Delivery] = {}
    others: set[str] = set()
    for change in batch:
        if isinstance(change, End) and change.begun is not None and change.job_id not in found:
            found[change.job_id] = change.begun
        else:
            others.add(change.job_id)
    for job_id in others:
        found.pop(job_id, None)
    return found


def to_read(batch: Sequence[Change], begun: Mapping[str, Delivery]) -> tuple[list[str], list[str]]:
    """Return the ids of the deliveries to read for a batch, and of those whose envelope is needed too."""
    unread = list({change.job_id for change in batch if change.job_id not in begun})
    return unread, [change.job_id for change in batch if isinstance(change, Begin)]


class AppliedChanges:
    """The effect of a batch of changes on its deliveries. A delivery may occur in it several times.

    Args:
        rows: the deliveries that were read, in the order of `STATE`, and the envelope behind it.
        begun: those that were not.

    Attributes:
        before: the deliveries before the batch.
        decided: what was decided on each change.
    """

    def __init__(self, batch: Sequence[Change], rows: Sequence[Row], begun: Mapping[str, Delivery]) -> None:
        self.before = {**begun, **{row[0]: delivery_of(row) for row in rows}}
        self._now = dict(self.before)
        self.changed: dict[str, Delivery] = {}
        self.transitions: list[Row] = []
        self._attempts: dict[tuple[str, int], Row] = {}
        self.responses: dict[str, TargetResponse] = {}
        envelopes = {row[0]: row[-1] for row in rows}
        self.decided: list[Decided] = []
        for change in batch:
            one = self._apply(change)
            envelope = unpack_envelope(envelopes[change.job_id]) if needs_envelope(change, one) else None
            self.decided.append((one, envelope))

    @property
    def attempts(self) -> list[Row]:
        """The rows of finished attempts; of several with one number, the last."""
        return list(self._attempts.values())

    def _apply(self, change: Change) -> Decision | Written | Refused:
        """Decide on a change, after those before it in the batch."""
        job_id = change.job_id
        row = self._now.get(job_id)
        if row is None:
            return Refused(None)
        decided = decide(change, row)
        if isinstance(decided, Decision):
            self._now[job_id] = self.changed[job_id] = decided.delivery
            for step in decided.transitions:
                self.transitions.append(transition_row(job_id, step))
            for attempt in decided.attempts:
                self._attempts[job_id, attempt.number] = attempt_row(job_id, attempt)
            if decided.response is not None:
                self.responses[job_id] = decided.response
        return decided
