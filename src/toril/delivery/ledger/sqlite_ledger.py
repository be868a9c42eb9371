"""The ledger in a SQLite file: the embedded default, for one machine. Several processes may share the file.

One thread writes, one reads. WAL with `synchronous=FULL`: a commit is on the disk when a call returns. Operations that
arrive during a commit share the next one. Changes share their statements too, as each one takes Python's lock from the
event loop; where SQLite refuses one, each operation has its own savepoint, so one that fails affects no other.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from toril.core.errors import LedgerUnavailable, RowRefused
from toril.delivery.ledger.group_commit import GroupCommit
from toril.delivery.ledger.sql_batch import AppliedChanges, Decided, begun_of, size_of, size_of_change, to_read
from toril.delivery.ledger.sql_ledger import SqlLedger
from toril.delivery.ledger.sql_reader import Query
from toril.delivery.ledger.sql_rows import Row, changing_row, delivery_of, new_row, response_row, transition_row
from toril.delivery.ledger.sql_schema import CHANGING, MIGRATIONS, NEW, STATE, Dialect, migration
from toril.delivery.ledger.sqlite_file import OpenFiles, SqliteFile
from toril.delivery.rules.changes import Accepted, Change, Duplicate
from toril.delivery.rules.delivery import Delivery, NewDelivery
from toril.delivery.rules.lifecycle import Status

T = TypeVar("T")
_BUSY_S = 5.0
_ANSWER_S = 30.0

_SQLITE = Dialect(
    types={
        "text": "TEXT",
        "double": "REAL",
        "bytes": "BLOB",
        "roomy": "",
        "clustered": " WITHOUT ROWID",
    },
    among=lambda column, place: f"{column} IN (SELECT value FROM json_each({place}))",
    many=lambda items: json.dumps(list(items)),
    find="instr",
)


def _places(count: int) -> str:
    return ", ".join("?" * count)


def _rows(table: str, columns: int, rows: int, *, verb: str = "INSERT") -> str:
    return f"{verb} INTO {table} VALUES {', '.join([f'({_places(columns)})'] * rows)}"


_INSERT = f"INSERT INTO toril_deliveries ({NEW}) VALUES ({_places(25)}) ON CONFLICT DO NOTHING"
_STEP = _rows("toril_transitions", 8, 1)
_LABEL = "INSERT INTO toril_labels VALUES (?, ?, ?)"
_BY_ID = f"SELECT {STATE} FROM toril_deliveries WHERE job_id = ?"
_BY_KEY = f"SELECT {STATE}, fingerprint FROM toril_deliveries WHERE target = ? AND idempotency_key = ?"
_AMONG = "(SELECT value FROM json_each(?))"
_LOADED = f"""
SELECT {STATE}, CASE WHEN job_id IN {_AMONG} THEN envelope END FROM toril_deliveries WHERE job_id IN {_AMONG}"""
_SET = f"UPDATE toril_deliveries SET {', '.join(f'{column} = ?' for column in CHANGING)}"
_UNCHANGED = "WHERE job_id = ? AND seq = ? AND token = ?"
_UPDATE = f"{_SET} {_UNCHANGED}"
# The beginning of an attempt changes no column of the indexes of deliveries that are open or have a deadline.
_BEGIN = f"""
UPDATE toril_deliveries SET status = ?, seq = ?, updated_at = ?, next_attempt_at = ?, attempts_begun = ?, token = ?,
    started_at = ?, lease_until = ? {_UNCHANGED}"""
_UPDATE_ANSWERED = f"{_SET}, response = ?, response_blob = ? {_UNCHANGED}"
# Rows are inserted so many at a time, by statements that stay prepared.
_SIZES = (32, 16, 8, 4, 2, 1)
_STEPS = [(size, _rows("toril_transitions", 8, size)) for size in _SIZES]
_ATTEMPTS = [(size, _rows("toril_attempts", 8, size, verb="INSERT OR REPLACE")) for size in _SIZES]
_REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, OverflowError)


class SqliteLedger(SqlLedger):
    """The ledger in a SQLite file, which is made if it does not exist.

    Args:
        path: the file; its folder has to exist.
        siblings: a folder that the processes of this instance share; None if there is one process alone.
    """

    def __init__(self, path: Path, siblings: Path | None = None) -> None:
        super().__init__(
            _SQLITE,
            GroupCommit(self._commit_accepts, size=size_of),
            GroupCommit(self._commit_changes, size=size_of_change),
        )
        file = SqliteFile(path, _connect, siblings)
        self._writer = _Thread(file, "toril-ledger-write", self._forget_identity)
        self._reader = _Thread(file, "toril-ledger-read", self._forget_identity)

    async def run(self) -> None:
        """As `SqlLedger.run`."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._accepts.run(), name="ledger:accepts")
                tasks.create_task(self._changes.run(), name="ledger:changes")
        finally:
            self._writer.close()
            self._reader.close()

    async def _fetch(self, *queries: Query) -> list[list[Row]]:
        return await self._reader.do(partial(_read, queries))

    async def _execute(self, *statements: Query) -> None:
        with self._writing():
            await self._writer.do(partial(_write, statements))

    async def _commit_accepts(self, batch: Sequence[NewDelivery]) -> list[Accepted | Duplicate | Exception]:
        with self._writing():
            return await self._writer.do(partial(_each, _accept, batch))

    async def _commit_changes(self, batch: Sequence[Change]) -> list[Decided | Exception]:
        with self._writing():
            return await self._writer.do(partial(_change_all, batch))


class _Thread:
    """A thread with its own connection, which is opened when it is first needed and again after a failure. Opening it
    brings the schema up to date. `dropped` is called when a connection is closed.
    """

    def __init__(self, file: SqliteFile, name: str, dropped: Callable[[], None]) -> None:
        self._file = file
        self._dropped = dropped
        self._opened: OpenFiles | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the thread. It runs to its end even when the caller has stopped waiting."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await asyncio.get_running_loop().run_in_executor(self._executor, self._do, work)
        except TimeoutError:
            raise LedgerUnavailable(
                f"The ledger's disk did not answer within {_ANSWER_S:g} s. Whether it was written is unknown.",
                reason="its disk hangs",
            ) from None

    def close(self) -> None:
        """Finish the work under way, and close the file."""
        self._executor.submit(self._drop)
        self._executor.shutdown(wait=True)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._opened is not None and self._opened.exchanged:
                self._drop()
            if self._opened is None:
                self._opened = self._file.open()
            # Checked before and after: what was written to a deleted file must not count as written.
            self._opened.check()
            result = work(self._opened.connection)
            self._opened.check()
            return result
        except sqlite3.Error as exc:
            self._drop()
            raise LedgerUnavailable(f"The ledger cannot be used now: {exc}", reason=str(exc)) from exc

    def _drop(self) -> None:
        opened, self._opened = self._opened, None
        self._dropped()
        if opened is not None:
            with suppress(sqlite3.Error):
                opened.connection.close()


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _migrate(connection)
        connection.execute("SELECT count(*) FROM toril_ledger").fetchone()  # makes the log, if it was not there
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date. The write lock keeps other processes out meanwhile."""
    if connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),):
        return
    with _transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise LedgerUnavailable(f"The ledger has schema {version}, made by a newer toril than this one")
        for number in range(version + 1, len(MIGRATIONS) + 1):
            for statement in migration(number, _SQLITE):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _read(queries: Iterable[Query], connection: sqlite3.Connection) -> list[list[Row]]:
    connection.execute("BEGIN")
    try:
        return [connection.execute(_numbered(sql), values).fetchall() for sql, values in queries]
    finally:
        with suppress(sqlite3.Error):
            connection.execute("COMMIT")


def _write(statements: Iterable[Query], connection: sqlite3.Connection) -> None:
    with _transaction(connection):
        for sql, values in statements:
            connection.execute(_numbered(sql), values)


def _numbered(sql: str) -> str:
    return sql.replace("$", "?")


def _each(
    work: Callable[[sqlite3.Connection, Any], T], batch: Sequence[Any], connection: sqlite3.Connection
) -> list[T | Exception]:
    """Carry out a batch in one commit; return the result or the error of each operation."""
    results: list[T | Exception] = []
    with _transaction(connection):
        for op in batch:
            connection.execute("SAVEPOINT one")
            try:
                results.append(work(connection, op))
            except _REFUSALS as exc:
                connection.execute("ROLLBACK TO one")
                results.append(RowRefused(f"The ledger refused it: {exc}"))
            connection.execute("RELEASE one")
    return results


def _accept(connection: sqlite3.Connection, new: NewDelivery) -> Accepted | Duplicate:
    delivery, first, row = new_row(new)
    if connection.execute(_INSERT, row).rowcount == 1:
        connection.execute(_STEP, transition_row(new.job_id, first))
        connection.executemany(_LABEL, [(name, value, new.job_id) for name, value in new.labels.items()])
        return Accepted(delivery)
    there = connection.execute(_BY_ID, (new.job_id,)).fetchone()
    if there is not None:
        return Accepted(delivery_of(there))
    there = connection.execute(_BY_KEY, (new.target, new.idempotency_key)).fetchone()
    return Duplicate(delivery_of(there), there[-1])


class _NotAsBegun(Exception):
    """A delivery has changed since its attempt has begun."""


def _change_all(batch: Sequence[Change], connection: sqlite3.Connection) -> list[Decided | Exception]:
    """Carry out changes in one commit, together if possible; return the result or the error of each."""
    begun = begun_of(batch)
    try:
        try:
            with _transaction(connection):
                return [*_changed(connection, batch, begun)]
        except _NotAsBegun:
            with _transaction(connection):
                return [*_changed(connection, batch)]
    except _REFUSALS:
        return _each(_change, batch, connection)


def _change(connection: sqlite3.Connection, change: Change) -> Decided:
    (decided,) = _changed(connection, [change])
    return decided


def _changed(
    connection: sqlite3.Connection, batch: Sequence[Change], begun: Mapping[str, Delivery] = {}
) -> list[Decided]:
    """Decide on changes, and write what they make of the rows, those of `begun` unread.

    Raises `_NotAsBegun` where one of these is another one by now.
    """
    unread, beginning = to_read(batch, begun)
    rows: list[Row] = []
    if unread:
        rows = connection.execute(_LOADED, (json.dumps(beginning), json.dumps(unread))).fetchall()
    applied = AppliedChanges(batch, rows, begun)
    before = applied.before
    if any(job_id not in applied.changed for job_id in begun):
        raise _NotAsBegun
    only_begun: list[Row] = []
    plain: list[Row] = []
    answered: list[Row] = []
    for job_id, one in applied.changed.items():
        response = applied.responses.get(job_id)
        unchanged = (job_id, before[job_id].seq, before[job_id].token)
        if one.status is Status.DISPATCHING and one.seq == before[job_id].seq + 1:
            only_begun.append((*_begun_row(one), *unchanged))
        elif response is None:
            plain.append((*changing_row(one), *unchanged))
        else:
            answered.append((*changing_row(one), *response_row(response), *unchanged))
    for statement, changes in ((_BEGIN, only_begun), (_UPDATE, plain), (_UPDATE_ANSWERED, answered)):
        if changes and connection.executemany(statement, changes).rowcount != len(changes):
            raise _NotAsBegun
    _insert(connection, _STEPS, applied.transitions)
    _insert(connection, _ATTEMPTS, applied.attempts)
    return applied.decided


def _begun_row(one: Delivery) -> Row:
    """Return what the beginning of an attempt changes, in the order of `_BEGIN`."""
    return (
        str(one.status), one.seq, one.updated_at_s, one.next_attempt_at_s, one.attempts_begun, one.token,
        one.started_at_s, one.lease_until_s,
    )  # fmt: skip


def _insert(connection: sqlite3.Connection, statements: Sequence[tuple[int, str]], rows: Sequence[Row]) -> None:
    """Insert rows, with as few statements as there are for."""
    first = 0
    for size, statement in statements:
        while len(rows) - first >= size:
            connection.execute(statement, [value for row in rows[first : first + size] for value in row])
            first += size
