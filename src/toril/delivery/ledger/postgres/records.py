"""Rows as PostgreSQL is sent them: as one text of JSON for many.

asyncpg looks at each element of an array, which cost more than all else of a row; JSON is encoded as a whole. A float
is read by PostgreSQL from the same digits that Python prints, so it stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from toril.core.errors import RowRefused

_TYPES: Mapping[str, str] = {
    "job_id": "text", "target": "text", "status": "text", "seq": "int", "created_at": "float8", "updated_at": "float8",
    "max_attempts": "int", "next_attempt_at": "float8", "finished_at": "float8", "deadline": "float8",
    "priority": "int", "idempotency_key": "text", "labels": "text", "attempts_made": "int", "attempts_begun": "int",
    "token": "text", "started_at": "float8", "lease_until": "float8", "last_error": "text", "reason": "text",
    "envelope_blob": "text", "source": "text", "at": "float8", "attempt": "int", "actor": "text", "number": "int",
    "duration": "float8", "outcome": "text", "status_code": "int", "error": "text", "retry_after": "float8",
    "response_blob": "text", "replay_key": "text", "job_group": "text", "seq_before": "int", "token_before": "text",
    "fingerprint_base64": "text", "response_base64": "text",
}  # fmt: skip
"""The type of each column, by its name; `…_before` is what a delivery had when it was decided on."""

_encode = msgspec.json.Encoder().encode


def record(names: Sequence[str]) -> Callable[..., msgspec.Struct]:
    """Return what makes a row with these columns from their values, in this order."""
    return msgspec.defstruct("Record", names)


def columns(names: Sequence[str]) -> str:
    """Return the definition of columns, as `json_to_recordset` wants it."""
    return ", ".join(f"{name} {_TYPES[name]}" for name in names)


def as_json(records: Iterable[msgspec.Struct | str]) -> str:
    """Return rows, or texts, as JSON. Raises `RowRefused` where a text cannot be encoded."""
    try:
        return _encode(list(records)).decode()
    except UnicodeEncodeError as exc:
        raise RowRefused(f"The ledger refused it: {exc}") from exc
