"""How the ledger's SQL is spelled for PostgreSQL."""

from __future__ import annotations

from toril.delivery.ledger.sql_schema import MIGRATIONS, Dialect
from toril.delivery.postgres_queue.tables import GROUP_TABLES, QUEUE_TABLES, ROOM_TABLES, STATISTICS_TABLES

POSTGRES = Dialect(
    types={
        "text": 'TEXT COLLATE "C"',  # ids are compared byte by byte
        "double": "DOUBLE PRECISION",
        "bytes": "BYTEA",
        "roomy": " WITH (fillfactor = 80)",  # room for the row's next version on its page
        "clustered": "",
    },
    among=lambda column, place: f"{column} = ANY({place}::text[])",
    many=list,
    find="strpos",
    # The queues of an instance without Redis came with version 4, their groups with version 6, statistics with
    # version 7, and the room of envelopes in groups with version 8.
    migrations=(*MIGRATIONS[:3], QUEUE_TABLES, *MIGRATIONS[3:], GROUP_TABLES, STATISTICS_TABLES, ROOM_TABLES),
)
