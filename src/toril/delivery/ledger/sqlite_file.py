"""The files of a SQLite ledger, and whether those that a connection has open are still the ones at their path.

SQLite goes on writing to a file that was deleted or moved away, and what it writes is lost with the process. So the
ledger checks before and after all that it does. Must never remove or change a file of the ledger.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from toril.core.errors import LedgerMoved

_Place = tuple[int, int] | None

GONE = (
    "The ledger's file was deleted or moved away while it was open, so nothing is accepted. Move the same file back, "
    "put another ledger in its place, or restart toril to begin an empty one"
)
_LOG_LEFT = (
    "The ledger's file was exchanged, and the -wal file beside it belongs to the former one. Stop toril, and remove "
    "the -wal and -shm files before it starts again"
)
_LOG_GONE = (
    "The -wal or -shm file of the ledger was deleted while it was open, so nothing is accepted. Restart toril; what "
    "was committed is in the ledger's file"
)


def _place(path: str) -> _Place:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _beside(path: Path) -> tuple[str, str]:
    real = path.resolve()  # SQLite keeps them beside the file that a link leads to
    return f"{real}-wal", f"{real}-shm"


class OpenFiles:
    """A connection, and the identity of the files that it has open."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._path = path
        self._there = str(path)
        self._file = _place(self._there)
        # Resolved once: where a link leads elsewhere later, the file there is another one.
        self._log, self._index = _beside(path)
        self._beside = self._found_beside()

    @property
    def exchanged(self) -> bool:
        """True once another file is at the path, which can be opened instead of this one."""
        return _place(self._there) not in (None, self._file) and not self._log_left()

    def check(self) -> None:
        """Check that what is written to this connection will be found again.

        Raises:
            LedgerMoved: it would not; the message says what to do.
        """
        there = _place(self._there)
        if there is None:
            raise LedgerMoved(GONE)
        if there != self._file:
            raise LedgerMoved(_LOG_LEFT if self._log_left() else GONE)
        if self._found_beside() != self._beside:
            # Move what is only in the deleted log into the file, before the process ends.
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            raise LedgerMoved(_LOG_GONE)

    def _log_left(self) -> bool:
        log, _ = _beside(self._path)
        return self._beside[0] is not None and _place(log) == self._beside[0]

    def _found_beside(self) -> tuple[_Place, _Place]:
        return _place(self._log), _place(self._index)


class SqliteFile:
    """Opens the ledger's file: makes it the first time, and never again in the life of this instance.

    Args:
        path: the file.
        connect: connects to this URI and leaves it in use, with its log.
        siblings: a folder that the processes of this instance share while it lives, and no other instance uses. A
            process that starts late sees there that the ledger was opened before. None: there is one process alone.
    """

    def __init__(self, path: Path, connect: Callable[[str], sqlite3.Connection], siblings: Path | None = None) -> None:
        self._path = path
        self._connect = connect
        self._made = False
        self._opened_before = None if siblings is None else siblings / "ledger.opened"

    def open(self) -> OpenFiles:
        """Return a new connection.

        Raises:
            LedgerMoved: the file is gone since it was last opened.
            sqlite3.Error: it cannot be opened.
        """
        if self._opened_before is not None and self._opened_before.exists():
            self._made = True
        before = _place(str(self._path))
        if self._made and before is None:
            raise LedgerMoved(GONE)
        mode = "rw" if self._made else "rwc"
        connection = self._connect(f"{self._path.absolute().as_uri()}?mode={mode}")
        opened = OpenFiles(self._path, connection)
        if before not in (None, _place(str(self._path))):
            connection.close()
            raise LedgerMoved("The ledger's file was exchanged while it was opened. Try again.")
        self._made = True
        if self._opened_before is not None:
            with suppress(OSError):  # it is only a hint: this process knows anyhow
                self._opened_before.touch()
        return opened
