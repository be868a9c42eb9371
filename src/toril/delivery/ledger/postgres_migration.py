"""What brings a database in PostgreSQL up to date: the ledger's tables, and the schema `toril` of SQL enqueue.

Both have a version, and never go backwards. The ledger's tables are where they were made first, even if the role's
search path names another schema first by now, such as `toril` for a role of that name.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from toril.core.errors import LedgerUnavailable, StoreRefused
from toril.delivery.ledger.postgres_dialect import POSTGRES
from toril.delivery.ledger.sql_schema import migration
from toril.delivery.sql_enqueue.functions import VERSION, script

_LOCK = 0x746F72696C  # "toril"
_OLDEST_SERVER = 130_000

_HOME = """
SELECT n.nspname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass('toril_schema')"""
# Whether the schema is there, and this role may change it.
_THERE = """
SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'toril' AND c.relname = 'version'"""


class MigrationStep(Struct, frozen=True):
    """SQL to be carried out in one transaction with the other steps, and what it makes."""

    title: str
    sql: str


class MigrationPlan(Struct, frozen=True):
    """The steps, in order. `newer` says what was made by a newer toril; then there are no steps."""

    steps: tuple[MigrationStep, ...] = ()
    newer: str | None = None


async def migrate(connection: Any) -> None:
    """Bring the ledger up to date in a transaction, and SQL enqueue where it is there already.

    Instances that start meanwhile wait for the lock, and find it done.

    Raises:
        LedgerUnavailable: the ledger was made by a newer toril.
    """
    plan = await planned(connection, sql_enqueue=False)
    if plan.newer is not None:
        raise LedgerUnavailable(plan.newer)
    await carry_out(connection, plan)


async def carry_out(connection: Any, plan: MigrationPlan) -> None:
    """Take the steps of a plan, in the transaction in which it was made."""
    for step in plan.steps:
        await connection.execute(step.sql)


async def planned(connection: Any, *, sql_enqueue: bool) -> MigrationPlan:
    """Return what is to be done. The transaction has a lock from here on, so that no other one plans the same.

    Args:
        sql_enqueue: True makes the schema `toril` where there is none; False only updates one that is there.

    Raises:
        StoreRefused: the database cannot have what is asked for.
    """
    await connection.execute("SET LOCAL lock_timeout = 0")  # another instance may take long
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
    home = await connection.fetchval(_HOME)
    version = 0 if home is None else await connection.fetchval("SELECT max(version) FROM toril_schema") or 0
    if version > len(POSTGRES.migrations):
        return MigrationPlan(newer=f"The ledger has schema {version}, made by a newer toril than this one")
    if home is None:
        home = await connection.fetchval("SELECT current_schema()::text")
        if home is None:
            raise StoreRefused("No schema of the search path exists, so the ledger's tables have no place")
    steps = _of_ledger(version, await _quoted(connection, "ident", home))
    ours = await connection.fetchval(_THERE)
    if not sql_enqueue and not ours:
        return MigrationPlan(steps)
    if ours is False:
        raise StoreRefused("The schema toril is another role's: migrate as that role, or with another database")
    made, of = (0, home) if ours is None else await connection.fetchrow("SELECT version, ledger FROM toril.version")
    if made > VERSION and sql_enqueue:
        return MigrationPlan(newer=f"The schema toril has version {made}, made by a newer toril than this one")
    if of != home and sql_enqueue:
        raise StoreRefused(f"The schema toril belongs to the ledger in the schema {of}, and a database has one of it")
    if made >= VERSION or of != home:
        return MigrationPlan(steps)
    if made == 0:
        await _check_server(connection)
    return MigrationPlan((*steps, *await _of_sql_enqueue(connection, made, home)))


def _of_ledger(version: int, home: str) -> tuple[MigrationStep, ...]:
    if version == len(POSTGRES.migrations):
        return ()
    place = f"SET LOCAL search_path = {home};\nCREATE TABLE IF NOT EXISTS toril_schema (version INTEGER NOT NULL);"
    steps = [MigrationStep(f"a place for the ledger: the schema {home}", place)]
    for number in range(version + 1, len(POSTGRES.migrations) + 1):
        statements = (*migration(number, POSTGRES), f"INSERT INTO toril_schema VALUES ({number})")
        steps.append(MigrationStep(f"the ledger, version {number}", ";\n".join(statements) + ";"))
    return tuple(steps)


async def _of_sql_enqueue(connection: Any, made: int, home: str) -> list[MigrationStep]:
    steps = []
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'toril')"):
        steps.append(MigrationStep("the schema toril", "CREATE SCHEMA toril;"))
    ident, literal = [await _quoted(connection, kind, home) for kind in ("ident", "literal")]
    version = f"DELETE FROM toril.version;\nINSERT INTO toril.version VALUES ({VERSION}, {literal});"
    steps.append(MigrationStep(f"SQL enqueue, version {VERSION}", f"{script(made, ident)}\n{version}"))
    return steps


async def _check_server(connection: Any) -> None:
    """Refuse a server or a database that the functions cannot run in."""
    if int(await connection.fetchval("SELECT current_setting('server_version_num')")) < _OLDEST_SERVER:
        raise StoreRefused("SQL enqueue needs PostgreSQL 13 or newer")
    encoding = await connection.fetchval("SELECT current_setting('server_encoding')")
    if encoding != "UTF8":
        raise StoreRefused(f"SQL enqueue needs a database whose encoding is UTF8; this one's is {encoding}")


async def _quoted(connection: Any, kind: str, text: str) -> str:
    return str(await connection.fetchval(f"SELECT quote_{kind}($1)", text))
