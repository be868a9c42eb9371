"""What is written to the SQL ledgers: `Ledger`, and what `LedgerUpkeep` removes.

`toril.delivery.ledger.sqlite_ledger` and `toril.delivery.ledger.asyncpg_ledger` bring the connections, the locking and
the statements that commit a batch.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from toril.core.errors import LedgerUnavailable, StoreError
from toril.core.ports import Meter
from toril.delivery.ledger.group_commit import GroupCommit
from toril.delivery.ledger.sql_batch import Decided
from toril.delivery.ledger.sql_reader import Query, SqlReader
from toril.delivery.ledger.sql_schema import CHANGING, NEW, Dialect
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
from toril.delivery.rules.decisions import begun, written
from toril.delivery.rules.delivery import NewDelivery

_CHECK = "UPDATE toril_ledger SET checked_at = $1, filler = $2"
_UNCHANGED = ", ".join(f"{column} = {column}" for column in (*CHANGING, "response", "response_blob"))
_NONE = "WHERE 1 = 0"
# They change nothing, and are refused where a table or a right is missing that a delivery needs.
_CHECK_ALL = (
    f"INSERT INTO toril_deliveries ({NEW}) SELECT {NEW} FROM toril_deliveries {_NONE}",
    f"UPDATE toril_deliveries SET {_UNCHANGED} {_NONE}",
    f"INSERT INTO toril_transitions SELECT * FROM toril_transitions {_NONE}",
    f"""INSERT INTO toril_attempts SELECT * FROM toril_attempts {_NONE}
        ON CONFLICT (job_id, number) DO UPDATE SET error = excluded.error""",
    f"INSERT INTO toril_labels SELECT * FROM toril_labels {_NONE}",
)
_FILLER_BYTES = 64 * 1024
_TRUSTED_S = 0.5
"""For how long a successful check is trusted."""


class SqlLedger(SqlReader):
    """Keeps the promises of `Ledger`, `LedgerReader` and `LedgerUpkeep` in an SQL database."""

    def __init__(
        self,
        dialect: Dialect,
        accepts: GroupCommit[NewDelivery, Accepted | Duplicate],
        changes: GroupCommit[Change, Decided],
    ) -> None:
        super().__init__(dialect)
        self._accepts = accepts
        self._changes = changes
        self._failing = False
        self._trusted_until = 0.0

    def measured_by(self, meter: Meter) -> None:
        """Measure commits with this meter from now on."""
        self._accepts.meter = self._changes.meter = meter

    @abstractmethod
    async def run(self) -> None:
        """Connect, bring the schema up to date and serve, until cancelled. Until then calls fail as the port says."""

    async def check(self) -> None:
        """As `LedgerReader.check`: writes a row, and a larger one after a write that failed, since a full disk may have
        room for a few bytes. Statements that change nothing check that all tables can be written to.
        """
        now = time.monotonic()
        if not self._failing and now < self._trusted_until:
            return
        filler = os.urandom(_FILLER_BYTES) if self._failing else None
        await self._execute((_CHECK, (time.time(), filler)), *((sql, ()) for sql in _CHECK_ALL))
        self._failing, self._trusted_until = False, now + _TRUSTED_S

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Remember a write that failed, so that the next `check` writes more."""
        try:
            yield
        except LedgerUnavailable:
            self._failing = True
            raise

    @abstractmethod
    async def _execute(self, *statements: Query) -> None:
        """Carry statements out in one transaction."""

    async def accept(self, deliveries: Sequence[NewDelivery]) -> list[Accepted | Duplicate | StoreError]:
        """As `Ledger.accept`."""
        if len(deliveries) == 1:  # as of every request that is no batch
            try:
                return [await self._accepts.submit(deliveries[0])]
            except StoreError as exc:
                return [exc]
        return [value_of(result) for result in await self._accepts.submit_all(deliveries)]

    async def begin(self, change: Begin) -> Begun | Refused:
        """As `Ledger.begin`."""
        return begun(*await self._changes.submit(change))

    async def end(self, change: End) -> Written | Refused:
        """As `Ledger.end`."""
        return written((await self._changes.submit(change))[0])

    async def cancel(self, change: Cancel) -> Written | Refused:
        """As `Ledger.cancel`."""
        return written((await self._changes.submit(change))[0])

    async def replay(self, change: Replay) -> Written | Refused:
        """As `Ledger.replay`."""
        return written((await self._changes.submit(change))[0])

    async def expire(self, change: Expire) -> Written | Refused:
        """As `Ledger.expire`."""
        return written((await self._changes.submit(change))[0])

    async def lose(self, change: Lose) -> Written | Refused:
        """As `Ledger.lose`."""
        return written((await self._changes.submit(change))[0])

    async def forget(self, job_ids: Sequence[str]) -> None:
        """As `LedgerUpkeep.forget`."""
        finished = f"SELECT job_id FROM toril_deliveries WHERE finished_at IS NOT NULL AND {self._among('job_id')}"
        many = (self._dialect.many(job_ids),)
        await self._execute(
            *(
                (f"DELETE FROM {table} WHERE job_id IN ({finished})", many)
                for table in ("toril_transitions", "toril_attempts", "toril_labels")
            ),
            (f"DELETE FROM toril_deliveries WHERE finished_at IS NOT NULL AND {self._among('job_id')}", many),
        )


def value_of(result: Accepted | Duplicate | Exception) -> Accepted | Duplicate | StoreError:
    """Return what came of accepting a delivery; raise an exception that is a bug in toril."""
    if isinstance(result, Exception) and not isinstance(result, StoreError):
        raise result  # a bug in toril
    return result
