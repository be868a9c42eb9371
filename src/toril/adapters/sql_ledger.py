"""What the SQL ledgers share: the schema and its migrations, rows, and everything that is read.

`toril.adapters.sqlite_ledger` and `toril.adapters.asyncpg_ledger` bring the connections, the locking and the writing.
Statements are written with `$1`; where the two databases differ, a `Dialect` says how.

Five tables. `toril_deliveries` has one row a delivery; its index of what is open leaves the status out, so that in
PostgreSQL the beginning of an attempt touches no index (a HOT update). Transitions are only ever inserted; so are
attempts, but for one that was taken for lost and is written again as it went. There are no foreign keys: rows that
belong together are written and removed in one transaction. `toril_ledger` has one row, with the ledger's id.
"""

from __future__ import annotations

import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from toril.adapters.group_commit import GroupCommit
from toril.core.delivery import (
    Accepted,
    Attempt,
    AttemptOutcome,
    Begin,
    Begun,
    Cancel,
    Change,
    Decision,
    Delivery,
    Duplicate,
    End,
    Envelope,
    Expire,
    Inline,
    Lose,
    NewDelivery,
    RecordedResponse,
    Refused,
    Replay,
    Stored,
    Written,
    begun,
    decide,
    written,
)
from toril.core.errors import LedgerUnavailable, StoreError
from toril.core.lifecycle import Status, Transition
from toril.core.packed import pack, unpack_envelope, unpack_response
from toril.core.ports.ledger import Depth, Filter, History

Row = Sequence[Any]
Query = tuple[str, Sequence[Any]]
Decided = tuple[Decision | Written | Refused, Envelope | None]

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE toril_deliveries (
            job_id {text} PRIMARY KEY, target {text} NOT NULL, status {text} NOT NULL, seq INTEGER NOT NULL,
            created_at {double} NOT NULL, updated_at {double} NOT NULL, max_attempts INTEGER NOT NULL,
            next_attempt_at {double}, finished_at {double}, deadline {double}, priority INTEGER NOT NULL,
            idempotency_key {text}, labels {text} NOT NULL, attempts_made INTEGER NOT NULL,
            attempts_begun INTEGER NOT NULL, token {text} NOT NULL, started_at {double}, lease_until {double},
            last_error {text}, reason {text}, fingerprint {bytes} NOT NULL, envelope {bytes} NOT NULL,
            envelope_blob {text}, response {bytes}, response_blob {text}
        ){roomy}""",
        """CREATE UNIQUE INDEX toril_deliveries_key ON toril_deliveries (target, idempotency_key)
            WHERE idempotency_key IS NOT NULL""",
        "CREATE INDEX toril_deliveries_target ON toril_deliveries (target, job_id)",
        "CREATE INDEX toril_deliveries_open ON toril_deliveries (target, job_id) WHERE finished_at IS NULL",
        """CREATE INDEX toril_deliveries_done ON toril_deliveries (target, status, finished_at, job_id)
            WHERE finished_at IS NOT NULL""",
        """CREATE INDEX toril_deliveries_deadline ON toril_deliveries (deadline)
            WHERE deadline IS NOT NULL AND finished_at IS NULL""",
        """CREATE TABLE toril_transitions (
            job_id {text} NOT NULL, seq INTEGER NOT NULL, source {text}, status {text} NOT NULL, at {double} NOT NULL,
            reason {text}, attempt INTEGER, actor {text} NOT NULL, PRIMARY KEY (job_id, seq)
        ){clustered}""",
        """CREATE TABLE toril_attempts (
            job_id {text} NOT NULL, number INTEGER NOT NULL, started_at {double} NOT NULL, duration {double} NOT NULL,
            outcome {text} NOT NULL, status_code INTEGER, error {text}, retry_after {double},
            PRIMARY KEY (job_id, number)
        ){clustered}""",
        """CREATE TABLE toril_labels (
            name {text} NOT NULL, value {text} NOT NULL, job_id {text} NOT NULL, PRIMARY KEY (name, value, job_id)
        ){clustered}""",
        "CREATE INDEX toril_labels_job ON toril_labels (job_id)",
    ),
    (
        "CREATE TABLE toril_ledger (id {text} NOT NULL, checked_at {double} NOT NULL, filler {bytes})",
        "INSERT INTO toril_ledger VALUES ('{ledger_id}', 0, NULL)",
    ),
)
"""The schema's versions; what is here is never changed, only added to."""

STATE = (
    "job_id, target, status, seq, created_at, updated_at, max_attempts, next_attempt_at, finished_at, deadline, "
    "priority, idempotency_key, labels, attempts_made, attempts_begun, token, started_at, lease_until, last_error, "
    "reason"
)
"""The columns of a `Delivery`, in the order of its row."""

NEW = STATE + ", fingerprint, envelope, envelope_blob"
"""The columns of a delivery that is accepted."""

CHANGING = (
    "status", "seq", "updated_at", "max_attempts", "next_attempt_at", "finished_at", "deadline", "attempts_made",
    "attempts_begun", "token", "started_at", "lease_until", "last_error", "reason",
)  # fmt: skip
"""The columns that a change may change, beside the response."""

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

_CHECK = "UPDATE toril_ledger SET checked_at = $1, filler = $2"
_UNCHANGED = ", ".join(f"{column} = {column}" for column in (*CHANGING, "response", "response_blob"))
_NONE = "WHERE 1 = 0"
# They change nothing, and are refused where a table or a right is missing that a delivery needs on its way.
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
"""For how long a write that went well stands for the next one."""

_labels = msgspec.json.Encoder(order="sorted").encode
_read_labels = msgspec.json.Decoder(dict[str, str]).decode


class Dialect(Struct, frozen=True):
    """Where the databases differ: column types, a column being one of many, finding a text in another."""

    types: Mapping[str, str]
    among: Callable[[str, str], str]
    many: Callable[[Iterable[str]], Any]
    find: str


def migration(number: int, dialect: Dialect) -> list[str]:
    """The statements that make this version of the schema (counted from 1) of the one before."""
    given = {**dialect.types, "ledger_id": str(uuid.uuid4())}
    return [statement.format(**given) for statement in MIGRATIONS[number - 1]]


def new_row(new: NewDelivery) -> tuple[Delivery, Transition, Row]:
    """A delivery as it begins, and its row in the order of `NEW`."""
    delivery, first = new.first()
    content = new.envelope.content
    return (
        delivery,
        first,
        (
            *state_row(delivery),
            new.fingerprint,
            pack(new.envelope),
            content.name if isinstance(content, Stored) else None,
        ),
    )


def state_row(one: Delivery) -> Row:
    """A delivery in the order of `STATE`."""
    return (
        one.job_id, one.target, one.status.value, one.seq, one.created_at_s, one.updated_at_s, one.max_attempts,
        one.next_attempt_at_s, one.finished_at_s, one.deadline_s, one.priority, one.idempotency_key,
        _labels(one.labels).decode() if one.labels else "{}", one.attempts_made, one.attempts_begun, one.token,
        one.started_at_s, one.lease_until_s, one.last_error, one.reason,
    )  # fmt: skip


def changing_row(one: Delivery) -> Row:
    """A delivery in the order of `CHANGING`."""
    return (
        one.status.value, one.seq, one.updated_at_s, one.max_attempts, one.next_attempt_at_s, one.finished_at_s,
        one.deadline_s, one.attempts_made, one.attempts_begun, one.token, one.started_at_s, one.lease_until_s,
        one.last_error, one.reason,
    )  # fmt: skip


def delivery_of(row: Row) -> Delivery:
    """A row in the order of `STATE`, perhaps with more behind."""
    return Delivery(
        job_id=row[0],
        target=row[1],
        status=Status(row[2]),
        seq=row[3],
        created_at_s=row[4],
        updated_at_s=row[5],
        max_attempts=row[6],
        next_attempt_at_s=row[7],
        finished_at_s=row[8],
        deadline_s=row[9],
        priority=row[10],
        idempotency_key=row[11],
        labels={} if row[12] == "{}" else _read_labels(row[12]),
        attempts_made=row[13],
        attempts_begun=row[14],
        token=row[15],
        started_at_s=row[16],
        lease_until_s=row[17],
        last_error=row[18],
        reason=row[19],
    )


def envelope_of(packed: bytes) -> Envelope:
    """An envelope as it is kept."""
    return unpack_envelope(packed)


def response_row(response: RecordedResponse) -> tuple[bytes, str | None]:
    """A response as it is kept, and the blob it refers to."""
    return pack(response), response.content.name if isinstance(response.content, Stored) else None


def transition_row(job_id: str, one: Transition) -> Row:
    """A transition in the order of its table."""
    source = None if one.source is None else one.source.value
    return (job_id, one.seq, source, one.to.value, one.at_s, one.reason, one.attempt, one.by)


def attempt_row(job_id: str, one: Attempt) -> Row:
    """An attempt in the order of its table."""
    return (
        job_id, one.number, one.started_at_s, one.duration_s, one.outcome.value, one.status_code, one.error,
        one.retry_after_s,
    )  # fmt: skip


def size_of(new: NewDelivery) -> int:
    """About how many bytes a delivery takes in a batch."""
    envelope = new.envelope
    content = envelope.content
    return (
        500
        + len(envelope.path or "")
        + sum(len(name) + len(value) for name, value in (*envelope.headers, *new.labels.items()))
        + (len(content.data) if isinstance(content, Inline) else 0)
    )


def size_of_change(change: Change) -> int:
    """About how many bytes a change takes in a batch."""
    response = change.response if isinstance(change, End) else None
    if response is None:
        return 500
    return (
        500
        + sum(len(name) + len(value) for name, value in response.headers)
        + (len(response.content.data) if isinstance(response.content, Inline) else 0)
    )


def envelope_needed(change: Change, decided: Decision | Written | Refused) -> bool:
    """Whether an attempt begins, and whoever makes it needs the envelope."""
    return (
        isinstance(change, Begin) and not isinstance(decided, Refused) and decided.delivery.status is Status.DISPATCHING
    )


class Applied:
    """What a batch of changes makes of the rows that were loaded for it. One delivery may be in it several times."""

    def __init__(self, rows: dict[str, Delivery]) -> None:
        self._rows = rows
        self.changed: dict[str, Delivery] = {}
        self.transitions: list[Row] = []
        self._attempts: dict[tuple[str, int], Row] = {}
        self.responses: dict[str, RecordedResponse] = {}

    @property
    def attempts(self) -> list[Row]:
        """The rows of attempts; of several with one number, the last."""
        return list(self._attempts.values())

    def apply(self, change: Change) -> Decision | Written | Refused:
        """Decide on one change, on top of those before it."""
        job_id = change.job_id
        row = self._rows.get(job_id)
        if row is None:
            return Refused(None)
        decided = decide(change, row)
        if isinstance(decided, Decision):
            self._rows[job_id] = self.changed[job_id] = decided.delivery
            self.transitions.extend(transition_row(job_id, step) for step in decided.transitions)
            for attempt in decided.attempts:
                self._attempts[job_id, attempt.number] = attempt_row(job_id, attempt)
            if decided.response is not None:
                self.responses[job_id] = decided.response
        return decided


class SqlLedger(ABC):
    """Keeps the promises of `Ledger`, `LedgerReader` and `LedgerUpkeep` in an SQL database."""

    def __init__(
        self,
        dialect: Dialect,
        accepts: GroupCommit[NewDelivery, Accepted | Duplicate],
        changes: GroupCommit[Change, Decided],
    ) -> None:
        self._dialect = dialect
        self._accepts = accepts
        self._changes = changes
        self._id: str | None = None
        self._failing = False
        self._trusted_until = 0.0

    @abstractmethod
    async def run(self) -> None:
        """Connect, bring the schema up to date and serve, until cancelled. While it cannot, calls fail as the port
        says.
        """

    async def check(self) -> None:
        """As `LedgerReader.check`: a row is written, and a larger one after a write that failed, since a full disk may
        have room for a few bytes. All tables are asked whether they could be written to.
        """
        now = time.monotonic()
        if not self._failing and now < self._trusted_until:
            return
        filler = os.urandom(_FILLER_BYTES) if self._failing else None
        await self._execute((_CHECK, (time.time(), filler)), *((sql, ()) for sql in _CHECK_ALL))
        self._failing, self._trusted_until = False, now + _TRUSTED_S

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Remember a write that failed; `check` finds out whether the next one does."""
        try:
            yield
        except LedgerUnavailable:
            self._failing = True
            raise

    def _forget_identity(self) -> None:
        """The database was away: what is there from now on may be another one."""
        self._id = None

    async def identity(self) -> str:
        """As `LedgerReader.identity`. Known until the ledger was away: what comes back may be another one."""
        if self._id is None:
            (rows,) = await self._fetch(("SELECT id FROM toril_ledger", ()))
            if len(rows) != 1:
                raise LedgerUnavailable(f"The ledger has {len(rows)} ids in toril_ledger; it must have one")
            self._id = rows[0][0]
        return self._id

    @abstractmethod
    async def _fetch(self, *queries: Query) -> list[list[Row]]:
        """The rows of some queries, all of one moment."""

    @abstractmethod
    async def _execute(self, *statements: Query) -> None:
        """Carry statements out in one transaction."""

    async def accept(self, deliveries: Sequence[NewDelivery]) -> list[Accepted | Duplicate | StoreError]:
        """As `Ledger.accept`."""
        return [_value(result) for result in await self._accepts.submit_all(deliveries)]

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

    async def get(self, job_id: str) -> Delivery | None:
        """As `LedgerReader.get`."""
        return (await self.some([job_id])).get(job_id)

    async def some(self, job_ids: Sequence[str]) -> dict[str, Delivery]:
        """As `LedgerReader.some`."""
        (rows,) = await self._fetch(self._of(f"SELECT {STATE} FROM toril_deliveries", job_ids))
        return {row[0]: delivery_of(row) for row in rows}

    async def history(self, job_id: str) -> History | None:
        """As `LedgerReader.history`."""
        rows, transitions, attempts = await self._fetch(
            (f"SELECT {STATE}, response FROM toril_deliveries WHERE job_id = $1", (job_id,)),
            (
                _TRANSITIONS,
                (job_id,),
            ),
            (
                _ATTEMPTS,
                (job_id,),
            ),
        )
        if not rows:
            return None
        return History(
            delivery_of(rows[0]),
            [_transition(row) for row in transitions],
            [_attempt(row) for row in attempts],
            unpack_response(rows[0][-1]),
        )

    async def page(self, which: Filter, *, before: str | None, limit: int) -> list[Delivery]:
        """As `LedgerReader.page`."""
        conditions, values = self._conditions(which)
        if before is not None:
            values.append(before)
            conditions.append(f"job_id < ${len(values)}")
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        sql = f"SELECT {STATE} FROM toril_deliveries {where}ORDER BY job_id DESC LIMIT {int(limit)}"
        (rows,) = await self._fetch((sql, values))
        return [delivery_of(row) for row in rows]

    def _conditions(self, which: Filter) -> tuple[list[str], list[Any]]:
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
        if which.error_contains is not None:
            add(f"{self._dialect.find}(last_error, {{p1}}) > 0", which.error_contains)
        return conditions, values

    async def depth(self, target: str) -> Depth:
        """As `LedgerReader.depth`."""
        open_rows, dead = await self._fetch(
            (
                _OPEN,
                (target,),
            ),
            (
                "SELECT count(*) FROM toril_deliveries WHERE target = $1 AND status = $2 AND finished_at IS NOT NULL",
                (target, Status.DEAD_LETTERED.value),
            ),
        )
        counts = {row[0]: row[1] for row in open_rows}
        return Depth(
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


def _value(result: Accepted | Duplicate | Exception) -> Accepted | Duplicate | StoreError:
    if isinstance(result, Exception) and not isinstance(result, StoreError):
        raise result  # a fault of ours
    return result


def _transition(row: Row) -> Transition:
    return Transition(
        seq=row[0],
        source=None if row[1] is None else Status(row[1]),
        to=Status(row[2]),
        at_s=row[3],
        reason=row[4],
        attempt=row[5],
        by=row[6],
    )


def _attempt(row: Row) -> Attempt:
    return Attempt(
        number=row[0],
        started_at_s=row[1],
        duration_s=row[2],
        outcome=AttemptOutcome(row[3]),
        status_code=row[4],
        error=row[5],
        retry_after_s=row[6],
    )
