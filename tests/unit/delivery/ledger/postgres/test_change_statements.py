"""What a batch of changes sends to PostgreSQL."""

from collections.abc import Sequence
from typing import Any

import pytest

from toril.core.errors import RowRefused
from toril.delivery.ledger.postgres.change_statements import change_compared
from toril.delivery.rules.changes import Begin, Change, Delivered, End, Written
from toril.delivery.rules.decisions import Decision
from toril.delivery.rules.delivery import AttemptOutcome, Delivery
from toril.delivery.rules.lifecycle import Status

BEGUN = Delivery(
    job_id="j", target="billing", status=Status.DISPATCHING, seq=2, created_at_s=1.0, updated_at_s=2.0, max_attempts=3,
    attempts_begun=1, token="t", started_at_s=2.0, lease_until_s=32.0,
)  # fmt: skip


class Connection:
    """Remembers the statements, and answers each with these rows."""

    def __init__(self, rows: Sequence[Sequence[Any]] = ()) -> None:
        self.statements: list[str] = []
        self._rows = rows

    async def fetch(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        self.statements.append(statement)
        return self._rows


def end(**more: Any) -> End:
    given: dict[str, Any] = {"job_id": "j", "number": 1, "by": "worker", "at_s": 3.0, "duration_s": 0.5}
    return End(**(given | {"result": Delivered(), "outcome": AttemptOutcome.ANSWERED} | more))


async def test_the_end_of_an_attempt_is_written_by_one_statement_that_reads_no_row_before() -> None:
    connection = Connection()
    ((decided, envelope),) = [one for one in await change_compared(connection, [end()], {"j": BEGUN}) if one]
    assert isinstance(decided, Decision)
    assert (decided.delivery.status, envelope) == (Status.DELIVERED, None)
    assert len(connection.statements) == 1


async def test_a_change_of_a_delivery_that_is_another_one_by_now_is_left_undecided() -> None:
    changes: list[Change] = [end(), end(at_s=4.0)]
    assert await change_compared(Connection([("j",)]), changes, {"j": BEGUN}) == [None, None]


async def test_nothing_is_decided_on_a_delivery_that_was_not_read_where_the_end_is_not_that_of_its_attempt() -> None:
    connection = Connection()
    assert await change_compared(connection, [end(number=2)], {"j": BEGUN}) == [None]
    assert connection.statements == []


async def test_an_attempt_that_began_before_is_read_and_not_written_again() -> None:
    row = [*(None,) * 21, None, b""]
    row[0:7] = ["j", "billing", "dispatching", 2, 1.0, 2.0, 3]
    row[12:16] = ["{}", 0, 1, "t"]
    connection = Connection([row])
    begin = Begin(job_id="j", token="t", by="worker", at_s=3.0, lease_until_s=33.0)
    ((decided, envelope),) = [one for one in await change_compared(connection, [begin], {}) if one]
    assert isinstance(decided, Written)
    assert envelope is not None
    assert len(connection.statements) == 1


async def test_a_text_that_has_no_utf_8_is_refused() -> None:
    with pytest.raises(RowRefused):
        await change_compared(Connection(), [end(by="\ud800")], {"j": BEGUN})
