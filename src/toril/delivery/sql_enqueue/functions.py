"""The schema `toril` in PostgreSQL: its tables and functions, as SQL for one ledger.

Owns the version of that schema. The SQL stands in `toril/delivery/sql_enqueue/sql/`, one file a subject. Functions are
replaced as a whole at each version, and keep the rights that were granted on them.
"""

from __future__ import annotations

from importlib.resources import files

VERSION = 3
"""The version of the schema. Raise it with every change of the SQL, so that databases get it."""

CHANNEL = "toril_enqueued"
"""The channel on which `toril.enqueue` notifies."""

_TABLES = "tables.sql"
_CHANGES = {3: "ALTER TABLE toril.targets DROP COLUMN IF EXISTS groups;"}
"""How the tables were changed, by the version that they were changed for."""
_FUNCTIONS = ("packing.sql", "fingerprint.sql", "checks.sql", "enqueue.sql", "notify.sql", "job.sql", "rights.sql")


def source(name: str) -> str:
    """Return the text of one of the files."""
    return files(__package__).joinpath("sql", name).read_text("utf-8")


def script(version: int, ledger: str) -> str:
    """Return the SQL that makes the present version of the schema out of this one (0: there is none yet).

    Args:
        version: what the database has.
        ledger: the schema with the ledger's tables, quoted as an identifier.
    """
    tables = [source(_TABLES)] if version == 0 else []
    changes = [change for made, change in _CHANGES.items() if made > version]
    texts = [*tables, *changes, *(source(name) for name in _FUNCTIONS)]
    return "\n".join(texts).replace("@ledger@", ledger)
