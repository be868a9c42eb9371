"""The newest lines of the audit log in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from toril.delivery.postgres_queue.database import QueueDatabase
from toril.web.audit_trail import KEPT, read_lines
from toril.web.shapes import AuditLine

_KEEP = "INSERT INTO toril_audit (line) SELECT line FROM unnest($1::bytea[]) WITH ORDINALITY AS g (line, n) ORDER BY n"
_FORGET = f"DELETE FROM toril_audit WHERE id <= (SELECT max(id) - {KEPT} FROM toril_audit)"
_NEWEST = f"SELECT line FROM toril_audit ORDER BY id DESC LIMIT {KEPT}"


class PostgresLines:
    """A `LineStore` in a table."""

    def __init__(self, database: QueueDatabase) -> None:
        self._database = database

    async def keep(self, lines: Sequence[bytes]) -> None:
        """As `LineStore.keep`."""
        async with self._database.transaction() as connection:
            await connection.execute(_KEEP, list(lines))
            await connection.execute(_FORGET)

    async def newest(self) -> list[AuditLine]:
        """As `LineStore.newest`."""
        return read_lines("toril_audit", [row[0] for row in await self._database.fetch(_NEWEST)])
