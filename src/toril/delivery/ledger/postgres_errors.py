"""Translates errors of PostgreSQL, of a pooler and of the network into toril's.

Owns which SQLSTATE means what (PostgreSQL's appendix A). An error that is not known to be caused by a row or by one of
our statements counts as an unavailable ledger: it passes, or an operator repairs the server, and nothing is lost
meanwhile.
"""

from __future__ import annotations

import asyncio

import asyncpg

from toril.core.errors import LedgerUnavailable, RowRefused, StoreRefused, TorilError


class TryAgain(LedgerUnavailable):
    """The transaction was rolled back because of concurrent ones, and may be tried again at once."""


class RowLocked(LedgerUnavailable):
    """Another transaction holds a row or an idempotency key for longer than an operation waits. Nothing was written."""


_ROW = ("21", "22", "23", "44", "54", "P0")
"""Classes of errors that a row can cause: cardinality, data, constraints, check options, limits, triggers."""

_LOCKED = "55P03"
_AGAIN = ("40",)
_OURS = ("0A", "26", "34", "42")
"""Classes of errors in our statements, except those in `_REASONS`."""

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
    ("57014", "a statement took too long"),
    ("57P03", "PostgreSQL starts up or shuts down"),
    ("57P04", "its database was removed"),
    ("57", "PostgreSQL shuts down"),
    ("58", "PostgreSQL has trouble with its files"),
    ("XX", "PostgreSQL has an internal fault"),
)
"""Why the ledger is away, by the beginning of the SQLSTATE; the first that fits."""


class translated:  # noqa: N801 - a context manager, read like a function
    """Translates errors of asyncpg that leave the block into toril's.

    A task that is being cancelled stays so: where its connection was closed meanwhile, asyncpg raises an error in place
    of the cancellation when it is returned to the pool. A loop that tries again after errors would never end.
    """

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, Exception) and (ours := _translation(exc)) is not None:
            raise _cancellation(exc) or ours from exc


def _cancellation(exc: BaseException) -> asyncio.CancelledError | None:
    """Return the cancellation of the current task that this exception has taken the place of."""
    before = exc.__context__
    while before is not None and not isinstance(before, asyncio.CancelledError):
        before = before.__context__
    if before is None:
        return None
    task = asyncio.current_task()
    return before if task is not None and task.cancelling() else None


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
    if state == _LOCKED:
        message = (
            "Another transaction has not ended, and holds a row or an idempotency key. Nothing was written. Try again."
        )
        return RowLocked(message, reason="a lock is held for too long")
    if state.startswith(_AGAIN):
        return TryAgain(f"The ledger was busy with the same rows: {exc}", reason="it is busy with the same rows")
    reason = next((reason for beginning, reason in _REASONS if state.startswith(beginning)), None)
    if reason is None and state.startswith(_OURS):
        return StoreRefused(f"The ledger refused a statement: {exc}")
    reason = reason or "PostgreSQL refuses"
    return LedgerUnavailable(f"The ledger cannot be used now: {reason}: {exc} (SQLSTATE {state})", reason=reason)
