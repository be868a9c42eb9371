"""The tables of the SQL ledgers, their migrations, and where the databases differ.

Five tables. `toril_deliveries` has one row per delivery. Its index of open deliveries leaves the status out, so that in
PostgreSQL the beginning of an attempt touches no index (a HOT update). Transitions are only ever inserted. So are
attempts, except that one which was taken for lost is written again when its true end is known. There are no foreign
keys: rows that belong together are written and removed in one transaction. `toril_ledger` has one row, with the
ledger's id.

Statements are written with `$1`; where the two databases differ, a `Dialect` says how.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

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
    ("ALTER TABLE toril_deliveries ADD COLUMN replay_key {text}",),
    ("ALTER TABLE toril_deliveries ADD COLUMN job_group {text}",),
)
"""The schema's versions. One that was released is never changed; later ones are added."""

STATE = (
    "job_id, target, status, seq, created_at, updated_at, max_attempts, next_attempt_at, finished_at, deadline, "
    "priority, idempotency_key, labels, attempts_made, attempts_begun, token, started_at, lease_until, last_error, "
    "reason, replay_key, job_group"
)
"""The columns of a `Delivery`, in the order of its row."""

NEW = STATE + ", fingerprint, envelope, envelope_blob"
"""The columns of a delivery when it is accepted."""

CHANGING = (
    "status", "seq", "updated_at", "max_attempts", "next_attempt_at", "finished_at", "deadline", "attempts_made",
    "attempts_begun", "token", "started_at", "lease_until", "last_error", "reason", "replay_key",
)  # fmt: skip
"""The columns that a change may update, besides the response."""


class Dialect(Struct, frozen=True):
    """Where the databases differ: column types, how to test a column against many values, how to search in a text, and
    the versions of their schemas.
    """

    types: Mapping[str, str]
    among: Callable[[str, str], str]
    many: Callable[[Iterable[str]], Any]
    find: str
    migrations: tuple[tuple[str, ...], ...] = MIGRATIONS


def migration(number: int, dialect: Dialect) -> list[str]:
    """Return the statements that make this version of the schema (from 1) out of the one before."""
    given = {**dialect.types, "ledger_id": str(uuid.uuid4())}
    return [statement.format(**given) for statement in dialect.migrations[number - 1]]
