"""`toril migrate`: what it makes, what it prints, and what it refuses."""

import uuid
from pathlib import Path

import pytest

from tests.support.deliveries import configuration
from tests.support.postgres import PostgresProcess
from tests.support.sql_enqueue import NOWHERE, migrate, migrated

EVERYTHING = """
SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
    SELECT format('%s.%s %s %s', n.nspname, c.relname, c.relkind, coalesce(c.relacl::text, '-')) AS line
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname IN ('toril', 'public')
    UNION ALL
    SELECT format('%s %s %s %s', p.oid::regprocedure, md5(p.prosrc), p.prosecdef, p.proacl) FROM pg_proc AS p
    WHERE p.pronamespace = to_regnamespace('toril')
    UNION ALL SELECT format('%s %s', n.nspname, n.nspacl) FROM pg_namespace AS n WHERE n.nspname = 'toril'
) AS lines"""


WITHOUT_GROUPS = """
DROP TABLE toril_groups, toril_members, toril_rooms, toril_points, toril_failures, toril_audit;
ALTER TABLE toril_jobs DROP COLUMN job_group;
ALTER TABLE toril_queues DROP COLUMN grouped, DROP COLUMN virtual_time, DROP COLUMN plain_tag, DROP COLUMN turn,
    DROP COLUMN group_default;
CREATE INDEX toril_jobs_waiting ON toril_jobs (target, priority, place, job_id) WHERE due IS NULL AND token IS NULL"""
"""Makes the queues of an instance without Redis what they were before there were groups."""


class Database:
    """An empty database, and the configuration of a toril whose ledger it is."""

    def __init__(self, postgres: PostgresProcess, folder: Path, url: str | None = None) -> None:
        self.url = url or postgres.database()
        self.name = self.url.rpartition("/")[2]
        self.postgres = postgres
        self.config = configuration(folder / "toril.yaml", {"billing": NOWHERE}, ledger={"url": self.url})

    def sql(self, text: str) -> str:
        """What a statement of the superuser prints."""
        return self.postgres.psql(text, self.name)


@pytest.fixture
def database(postgres: PostgresProcess, tmp_path: Path) -> Database:
    return Database(postgres, tmp_path)


def test_migrate_makes_everything_once(database: Database) -> None:
    done = migrate(database.config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "the database is up to date; targets: billing"
    assert "made SQL enqueue, version 3" in done.stdout
    assert database.sql("SELECT version, ledger FROM toril.version") == "3|public"
    assert database.sql("SELECT name FROM toril.targets") == "billing"
    before = database.sql(EVERYTHING)
    again = migrate(database.config)
    assert (again.returncode, again.stdout) == (0, "the database is up to date; targets: billing\n")
    assert database.sql(EVERYTHING) == before
    assert "toril_deliveries" in before


def test_the_plan_changes_nothing_and_is_what_psql_can_carry_out(database: Database, tmp_path: Path) -> None:
    plan = migrate(database.config, "--plan")
    assert plan.returncode == 0, plan.stderr
    assert database.sql(EVERYTHING) == ""
    database.sql(plan.stdout)
    assert migrate(database.config, "--plan").stdout == "-- the database is up to date\n"
    other = Database(database.postgres, tmp_path)
    migrated(other.config)
    assert database.sql(EVERYTHING) == other.sql(EVERYTHING)


@pytest.mark.parametrize("table", ["toril.version", "public.toril_schema"])
@pytest.mark.parametrize("option", [(), ("--plan",)], ids=["carried out", "planned"])
def test_migrate_changes_nothing_in_a_database_of_a_newer_toril(
    database: Database, table: str, option: tuple[str, ...]
) -> None:
    migrated(database.config)
    database.sql(f"UPDATE {table} SET version = 99")
    database.sql("DROP FUNCTION toril.job")
    done = migrate(database.config, *option)
    assert (done.returncode, done.stdout) == (2, "")
    assert "99, made by a newer toril than this one; nothing was changed" in done.stderr
    assert database.sql("SELECT count(*) FROM pg_proc WHERE proname = 'job'") == "0"


def test_what_was_made_before_there_were_groups_gets_them(database: Database) -> None:
    migrated(database.config)
    before = database.sql(EVERYTHING)
    old = database.sql("SELECT toril.enqueue('billing', idempotency_key => 'k')")
    database.sql("UPDATE toril.version SET version = 1")
    database.sql("DELETE FROM toril_schema WHERE version >= 5; ALTER TABLE toril_deliveries DROP COLUMN job_group")
    database.sql(WITHOUT_GROUPS)
    migrated(database.config)
    assert database.sql(EVERYTHING) == before
    assert database.sql("SELECT toril.enqueue('billing', idempotency_key => 'k')") == old
    new = database.sql("""SELECT toril.enqueue('billing', "group" => '{"id": "acme"}')""")
    shown = f"SELECT toril.job('{new}') -> 'group' ->> 'id', toril.job('{old}') ->> 'group' IS NULL"
    assert database.sql(shown) == "acme|t"


def test_an_older_version_gets_the_present_functions_and_keeps_rights_and_rows(database: Database) -> None:
    migrated(database.config)
    before = database.sql(EVERYTHING)
    job_id = database.sql("SELECT toril.enqueue('billing')")
    database.sql("UPDATE toril.version SET version = -1; GRANT EXECUTE ON FUNCTION toril.job TO pg_monitor")
    database.sql("CREATE OR REPLACE FUNCTION toril.job(id uuid) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb'")
    migrated(database.config)
    assert database.sql(f"SELECT toril.job('{job_id}') ->> 'status'") == "queued"
    assert database.sql("SELECT has_function_privilege('pg_monitor', 'toril.job(uuid)', 'EXECUTE')") == "t"
    database.sql("REVOKE ALL ON FUNCTION toril.job FROM pg_monitor")
    assert database.sql(EVERYTHING) == before


def test_a_ledger_that_a_role_called_toril_has_stays_where_it_is(database: Database) -> None:
    # Once the schema toril is there, the search path of the role toril begins with it.
    migrated(database.config)
    migrated(database.config)
    assert database.sql("SELECT current_schema()") == "toril"
    assert (
        database.sql("SELECT relnamespace::regnamespace FROM pg_class WHERE relname = 'toril_deliveries'") == "public"
    )
    assert database.sql("SELECT count(*) FROM toril_ledger") == "1"


def test_a_role_that_may_make_no_schema_needs_one_made_for_it(postgres: PostgresProcess, tmp_path: Path) -> None:
    role = f"app_{uuid.uuid4().hex[:8]}"
    name = postgres.database().rpartition("/")[2]
    postgres.psql(f"CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA public TO {role}", name)
    database = Database(postgres, tmp_path, f"postgresql://{role}@127.0.0.1:{postgres.port}/{name}")
    done = migrate(database.config)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"permission denied for database {name}" in done.stderr
    assert database.sql("SELECT to_regclass('toril_deliveries') IS NULL") == "t", "all or nothing"
    database.sql(f"CREATE SCHEMA toril AUTHORIZATION {role}")
    migrated(database.config)
    assert database.sql("SELECT toril.enqueue('billing') IS NOT NULL") == "t"


def test_a_second_ledger_in_one_database_cannot_have_sql_enqueue(database: Database, tmp_path: Path) -> None:
    migrated(database.config)
    database.sql("CREATE SCHEMA other")
    url = f"{database.url}?options=-csearch_path%3Dother"
    done = migrate(configuration(tmp_path / "other.yaml", {"billing": NOWHERE}, ledger={"url": url}))
    assert done.returncode == 1
    assert "belongs to the ledger in the schema public" in done.stderr


def test_a_database_with_another_encoding_is_refused(postgres: PostgresProcess, tmp_path: Path) -> None:
    name = f"ascii_{uuid.uuid4().hex[:8]}"
    postgres.psql(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0")
    done = migrate(Database(postgres, tmp_path, postgres.url(name)).config)
    assert done.returncode == 1
    assert "whose encoding is UTF8; this one's is SQL_ASCII" in done.stderr


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqlite:////tmp/ledger.sqlite3", "names no PostgreSQL database"),
        ("none", "names no PostgreSQL database"),
        ("postgresql://toril:hunter2@127.0.0.1:9/nowhere", "The ledger cannot be reached"),
        ("postgresql://toril:hunter2@127.0.0.1/x?sslmode=nonsense", "The ledger's URL cannot be used"),
    ],
)
def test_migrate_prints_a_fault_in_one_line_without_the_password(tmp_path: Path, url: str, why: str) -> None:
    done = migrate(configuration(tmp_path / "toril.yaml", {}, ledger={"url": url}))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("toril: ")
    assert why in line
    assert "hunter2" not in line
