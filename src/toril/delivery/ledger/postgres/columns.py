"""The types of the columns that the ledger in PostgreSQL is sent."""

from __future__ import annotations

from collections.abc import Mapping

TYPES: Mapping[str, str] = {
    "job_id": "text", "target": "text", "status": "text", "seq": "int", "created_at": "float8", "updated_at": "float8",
    "max_attempts": "int", "next_attempt_at": "float8", "finished_at": "float8", "deadline": "float8",
    "priority": "int", "idempotency_key": "text", "labels": "text", "attempts_made": "int", "attempts_begun": "int",
    "token": "text", "started_at": "float8", "lease_until": "float8", "last_error": "text", "reason": "text",
    "fingerprint": "bytea", "envelope": "bytea", "envelope_blob": "text", "source": "text", "at": "float8",
    "attempt": "int", "actor": "text", "number": "int", "duration": "float8", "outcome": "text", "status_code": "int",
    "error": "text", "retry_after": "float8", "name": "text", "value": "text", "response": "bytea",
    "response_blob": "text", "replay_key": "text", "job_group": "text", "seq_before": "int", "token_before": "text",
}  # fmt: skip
"""The type of each column, by its name; `…_before` is what a delivery had when it was decided on."""
