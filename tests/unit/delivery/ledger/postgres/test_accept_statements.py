"""What a batch of new deliveries sends to PostgreSQL."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from toril.core.errors import LedgerUnavailable, RowRefused
from toril.delivery.ledger.postgres.accept_statements import accept_all
from toril.delivery.rules.changes import Accepted
from toril.delivery.rules.delivery import Envelope, Inline, NewDelivery


class Connection:
    """Remembers the statements with their values, and answers them in turn."""

    def __init__(self, *answers: Sequence[Sequence[Any]]) -> None:
        self.sent: list[tuple[str, tuple[Any, ...]]] = []
        self._answers = iter(answers)

    async def fetch(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        self.sent.append((statement, values))
        return next(self._answers)


def new(job_id: str, **more: Any) -> NewDelivery:
    given = {"target": "billing", "envelope": Envelope(content=Inline(b"{}")), "at_s": 1_700_000_000.123_456_7}
    return NewDelivery(job_id=job_id, **(given | {"max_attempts": 3, "by": "gateway"} | more))


async def test_a_batch_is_one_statement_with_one_text_for_all_rows_and_their_envelopes() -> None:
    connection = Connection([])
    batch = [new("a", labels={"order": "é"}), new("b", idempotency_key="k", fingerprint=b"\xff")]
    assert await accept_all(connection, batch) == [Accepted(one.queued()) for one in batch]
    ((_, (rows, envelopes)),) = connection.sent
    first, second = json.loads(rows)
    assert (first["job_id"], first["created_at"], json.loads(first["labels"])) == ("a", batch[0].at_s, {"order": "é"})
    assert (second["idempotency_key"], second["fingerprint_base64"], second["labels"]) == ("k", "/w==", "{}")
    assert len(envelopes) == 2


async def test_a_key_whose_former_job_was_just_removed_is_to_be_tried_again() -> None:
    connection = Connection([("b",)], [])
    batch = [new("a"), new("b", idempotency_key="k")]
    accepted, refused = await accept_all(connection, batch)
    assert accepted == Accepted(batch[0].queued())
    assert isinstance(refused, LedgerUnavailable)


async def test_a_text_that_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(RowRefused):
        await accept_all(Connection(), [new("a", by="\ud800")])
