"""What is read from the SQL ledgers: `LedgerReader`, and the reads of `LedgerUpkeep`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from toril.core.errors import LedgerUnavailable
from toril.delivery.ledger.sql_rows import Row, attempt_of, delivery_of, transition_of
from toril.delivery.ledger.sql_schema import STATE, Dialect
from toril.delivery.ports import DeliveryFilter, DeliveryHistory, TargetDepth
from toril.delivery.rules.delivery import Delivery, Envelope
from toril.delivery.rules.lifecycle import Status
from toril.delivery.rules.row_codec import unpack_envelope, unpack_response

Query = tuple[str, Sequence[Any]]

_TRANSITIONS = (
    "SELECT seq, source, status, at, reason, attempt, actor FROM toril_transitions WHERE job_id = $1 ORDER BY seq"
)
_ATTEMPTS = (
    "SELECT number, started_at, duration, outcome, status_code, error, retry_after FROM toril_attempts "
    "WHERE job_id = $1 ORDER BY number"
)
_OPEN = (
    "SELECT status, count(*), min(created_at) FROM toril_deliveries "
    "WHERE target = $1 AND finished_at IS NULL GROUP BY status"
)
# From one target to the next by the index, instead of past every row.
_TARGETS = (
    "WITH RECURSIVE found (target) AS (SELECT min(target) FROM toril_deliveries UNION ALL SELECT "
    "(SELECT min(target) FROM toril_deliveries AS d WHERE d.target > found.target) "
    "FROM found WHERE found.target IS NOT NULL) SELECT target FROM found WHERE target IS NOT NULL"
)


class SqlReader(ABC):
    """Reads a ledger in an SQL database, over the connections of its adapter."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._id: str | None = None

    @abstractmethod
    async def _fetch(self, *queries: Query) -> list[list[Row]]:
        """Return the rows of each query, all of one moment."""

    def _forget_identity(self) -> None:
        """Ask for the id again next time: the database was away, and may be another one now."""
        self._id = None

    async def identity(self) -> str:
        """As `LedgerReader.identity`. It is read again after the ledger was away."""
        if self._id is None:
            (rows,) = await self._fetch(("SELECT id FROM toril_ledger", ()))
            if len(rows) != 1:
                raise LedgerUnavailable(f"The ledger has {len(rows)} ids in toril_ledger; it must have one")
            self._id = rows[0][0]
        return self._id

    async def get(self, job_id: str) -> Delivery | None:
        """As `LedgerReader.get`."""
        return (await self.some([job_id])).get(job_id)

    async def some(self, job_ids: Sequence[str]) -> dict[str, Delivery]:
        """As `LedgerReader.some`."""
        (rows,) = await self._fetch(self._of(f"SELECT {STATE} FROM toril_deliveries", job_ids))
        return {row[0]: delivery_of(row) for row in rows}

    async def history(self, job_id: str) -> DeliveryHistory | None:
        """As `LedgerReader.history`."""
        rows, transitions, attempts = await self._fetch(
            (f"SELECT {STATE}, response FROM toril_deliveries WHERE job_id = $1", (job_id,)),
            (_TRANSITIONS, (job_id,)),
            (_ATTEMPTS, (job_id,)),
        )
        if not rows:
            return None
        return DeliveryHistory(
            delivery_of(rows[0]),
            [transition_of(row) for row in transitions],
            [attempt_of(row) for row in attempts],
            unpack_response(rows[0][-1]),
        )

    async def envelope(self, job_id: str) -> Envelope | None:
        """As `LedgerReader.envelope`."""
        (rows,) = await self._fetch(("SELECT envelope FROM toril_deliveries WHERE job_id = $1", (job_id,)))
        return unpack_envelope(rows[0][0]) if rows else None

    async def page(self, which: DeliveryFilter, *, before: str | None, limit: int) -> list[Delivery]:
        """As `LedgerReader.page`."""
        conditions, values = self._conditions(which)
        if before is not None:
            values.append(before)
            conditions.append(f"job_id < ${len(values)}")
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        sql = f"SELECT {STATE} FROM toril_deliveries {where}ORDER BY job_id DESC LIMIT {int(limit)}"
        (rows,) = await self._fetch((sql, values))
        return [delivery_of(row) for row in rows]

    def _conditions(self, which: DeliveryFilter) -> tuple[list[str], list[Any]]:
        conditions: list[str] = []
        values: list[Any] = []

        def add(condition: str, *more: Any) -> None:
            places = {f"p{n}": f"${len(values) + n}" for n in range(1, len(more) + 1)}
            values.extend(more)
            conditions.append(condition.format(**places))

        at = "finished_at" if which.by_end else "created_at"
        if which.targets is not None:
            add(self._dialect.among("target", "{p1}"), self._dialect.many(which.targets))
        if which.statuses:
            add(self._dialect.among("status", "{p1}"), self._dialect.many(status.value for status in which.statuses))
        for name, value in which.labels:
            add("job_id IN (SELECT job_id FROM toril_labels WHERE name = {p1} AND value = {p2})", name, value)
        if which.since_s is not None:
            add(f"{at} >= {{p1}}", which.since_s)
        if which.until_s is not None:
            add(f"{at} < {{p1}}", which.until_s)
        if which.reason is not None:
            add("reason = {p1}", which.reason)
        if which.error_contains is not None:
            add(f"{self._dialect.find}(last_error, {{p1}}) > 0", which.error_contains)
        return conditions, values

    async def depth(self, target: str) -> TargetDepth:
        """As `LedgerReader.depth`."""
        open_rows, dead = await self._fetch(
            (_OPEN, (target,)),
            (
                "SELECT count(*) FROM toril_deliveries WHERE target = $1 AND status = $2 AND finished_at IS NOT NULL",
                (target, Status.DEAD_LETTERED.value),
            ),
        )
        counts = {row[0]: row[1] for row in open_rows}
        return TargetDepth(
            queued=counts.get(Status.QUEUED, 0),
            dispatching=counts.get(Status.DISPATCHING, 0),
            retrying=counts.get(Status.RETRYING, 0),
            dead_letters=dead[0][0],
            oldest_s=min((row[2] for row in open_rows), default=None),
        )

    async def waiting(self, target: str, *, due_before_s: float, after: str | None, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.waiting`."""
        return await self._open(
            "target = $1 AND job_id > $2 AND status IN ('queued', 'retrying') "
            "AND (next_attempt_at IS NULL OR next_attempt_at < $3) ORDER BY job_id",
            (target, after or "", due_before_s),
            limit,
        )

    async def overrun(self, at_s: float, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.overrun`."""
        return await self._open("status = 'dispatching' AND lease_until <= $1", (at_s,), limit)

    async def expired(self, at_s: float, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.expired`."""
        return await self._open("deadline <= $1 AND status IN ('queued', 'retrying')", (at_s,), limit)

    async def _open(self, condition: str, values: Sequence[Any], limit: int) -> list[Delivery]:
        sql = f"SELECT {STATE} FROM toril_deliveries WHERE finished_at IS NULL AND {condition} LIMIT {int(limit)}"
        (rows,) = await self._fetch((sql, values))
        return [delivery_of(row) for row in rows]

    async def finished(self, target: str, status: Status, before_s: float, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.finished`."""
        sql = (
            f"SELECT {STATE} FROM toril_deliveries WHERE finished_at IS NOT NULL AND target = $1 AND status = $2 "
            f"AND finished_at < $3 ORDER BY finished_at, job_id LIMIT {int(limit)}"
        )
        (rows,) = await self._fetch((sql, (target, status.value, before_s)))
        return [delivery_of(row) for row in rows]

    async def blobs(self, job_ids: Sequence[str]) -> list[str]:
        """As `LedgerUpkeep.blobs`."""
        (rows,) = await self._fetch(self._of("SELECT envelope_blob, response_blob FROM toril_deliveries", job_ids))
        return [name for row in rows for name in row if name is not None]

    async def targets(self) -> list[str]:
        """As `LedgerUpkeep.targets`."""
        (rows,) = await self._fetch(
            (
                _TARGETS,
                (),
            )
        )
        return [row[0] for row in rows]

    def _among(self, column: str) -> str:
        return self._dialect.among(column, "$1")

    def _of(self, select: str, job_ids: Sequence[str]) -> Query:
        return f"{select} WHERE {self._among('job_id')}", (self._dialect.many(job_ids),)
