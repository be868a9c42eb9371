"""`toril migrate` and `toril.enqueue`, as the tests use them."""

import uuid
from pathlib import Path
from typing import Any

import asyncpg

from tests.support.commands import Ran, run_toril
from tests.support.deliveries import configuration
from tests.support.postgres import PostgresProcess

NOWHERE = "http://127.0.0.1:9/"


def migrate(config: Path, *more: str) -> Ran:
    """Run `toril migrate` with a configuration file to its end."""
    return run_toril("migrate", "--config", str(config), *more)


def migrated(config: Path) -> None:
    """Run `toril migrate`, which must succeed."""
    done = migrate(config)
    assert done.returncode == 0, done.stderr


class SqlCaller:
    """A database with SQL enqueue, and a role that may execute it and do nothing else."""

    def __init__(self, postgres: PostgresProcess, folder: Path, targets: dict[str, Any], **more: Any) -> None:
        self.postgres = postgres
        self.ledger = postgres.database()
        self.database = self.ledger.rpartition("/")[2]
        self.config = configuration(folder / "toril.yaml", targets, ledger={"url": self.ledger}, **more)
        migrated(self.config)
        self.role = f"shop_{uuid.uuid4().hex[:8]}"
        self.admin(f"CREATE ROLE {self.role} LOGIN")
        self.admin(f"GRANT EXECUTE ON FUNCTION toril.enqueue, toril.job TO {self.role}")
        # The owner is called toril, so its search path has the schema toril first.
        self.admin("CREATE TABLE public.orders (id int PRIMARY KEY)")
        self.admin(f"GRANT SELECT, INSERT, UPDATE ON public.orders TO {self.role}")

    @property
    def url(self) -> str:
        """The database, as that role."""
        return f"postgresql://{self.role}@127.0.0.1:{self.postgres.port}/{self.database}"

    def admin(self, sql: str) -> str:
        """What a statement of the owner prints."""
        return self.postgres.psql(sql, self.database)

    def as_caller(self, sql: str) -> str:
        """What a statement of the role prints."""
        return self.postgres.psql(sql, self.database, self.role)

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection of the role."""
        return await asyncpg.connect(self.url)
