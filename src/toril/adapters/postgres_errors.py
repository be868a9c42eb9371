"""What PostgreSQL, a pooler before it, or the way there says, as errors of ours.

Owns which SQLSTATE means what (PostgreSQL's appendix A). Whatever is not known to be the fault of a row or of a
statement of ours is an absent ledger: it passes, or a person mends it on the server, and nothing is lost meanwhile.
"""

from __future__ import annotations

import asyncpg

from toril.core.errors import LedgerUnavailable, RowRefused, StoreRefused, TorilError


class TryAgain(LedgerUnavailable):
    """The transaction was rolled back because of what others did at the same time, and may be made again at once."""


_ROW = ("21", "22", "23", "44", "54", "P0")
"""Classes of what one row can be guilty of: cardinality, data, constraints, check options, limits, triggers."""

_AGAIN = ("40",)
_OURS = ("0A", "26", "34", "42")
"""Classes of statements that are wrong in themselves, but for what `_REASONS` has."""

_REASONS = (
    ("08", "the connection to it broke"),
    ("25006", "it is read-only"),
    ("28", "PostgreSQL refuses the user or the password"),
    ("3D000", "its database does not exist"),
    ("3F000", "its schema does not exist"),
    ("42501", "PostgreSQL refuses for want of rights"),
    ("42P01", "its tables are not there"),
    ("42703", "its tables are not those of this toril"),
    ("53100", "the disk is full"),
    ("53200", "PostgreSQL is out of memory"),
    ("53300", "PostgreSQL has too many connections"),
    ("53", "PostgreSQL is out of resources"),
    ("55P03", "a lock is held for too long"),
    ("57014", "a statement took too long"),
    ("57P03", "PostgreSQL starts up or shuts down"),
    ("57P04", "its database was removed"),
    ("57", "PostgreSQL shuts down"),
    ("58", "PostgreSQL has trouble with its files"),
    ("XX", "PostgreSQL has an internal fault"),
)
"""Why the ledger is away, by the beginning of the SQLSTATE; the first that fits."""


class translated:  # noqa: N801 - a context manager, read like a function
    """Errors of asyncpg as errors of ours."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, Exception) and (ours := _translation(exc)) is not None:
            raise ours from exc


def _translation(exc: Exception) -> TorilError | None:
    if isinstance(exc, asyncpg.PostgresError):
        return _of_server(exc)
    if isinstance(exc, asyncpg.InterfaceError) and isinstance(exc, asyncpg.exceptions.DataError | ValueError):
        return RowRefused(f"The ledger refused it: {exc}")  # it cannot be sent at all
    if isinstance(exc, asyncpg.InterfaceError | asyncpg.InternalClientError | OSError | TimeoutError):
        return LedgerUnavailable(f"The ledger cannot be reached: {str(exc) or type(exc).__name__}")
    return None


def _of_server(exc: asyncpg.PostgresError) -> TorilError:
    state = exc.sqlstate or ""
    if state.startswith(_ROW):
        return RowRefused(f"The ledger refused it: {exc}")
    if state.startswith(_AGAIN):
        return TryAgain(f"The ledger was busy with the same rows: {exc}", reason="it is busy with the same rows")
    reason = next((reason for beginning, reason in _REASONS if state.startswith(beginning)), None)
    if reason is None and state.startswith(_OURS):
        return StoreRefused(f"The ledger refused a statement: {exc}")
    reason = reason or "PostgreSQL refuses"
    return LedgerUnavailable(f"The ledger cannot be used now: {reason}: {exc} (SQLSTATE {state})", reason=reason)
