"""The tables of the targets' queues in PostgreSQL, beside the ledger's.

`toril_jobs` has one row per unfinished delivery that is in its target's queue. A row with `due` is delayed, one with a
`token` is leased until `locked_until`, and the others wait, the smallest `priority` and `place` first. The ledger stays
the truth: a job that is lost is put back by the recoverer, so most writes here do not wait for the disk.

`toril_queues` has a row for each target that was ever paused, held or limited, `toril_breakers` one for each whose
breaker knows anything, and `toril_conditions` one for each lasting condition that operators are told of. Times are
seconds since the epoch by PostgreSQL's clock.
"""

from __future__ import annotations

QUEUE_TABLES = (
    """CREATE TABLE toril_jobs (
        job_id {text} PRIMARY KEY, target {text} NOT NULL, priority INTEGER NOT NULL, place BIGINT NOT NULL,
        added {double} NOT NULL, due {double}, token {text}, locked_until {double}, starts INTEGER NOT NULL DEFAULT 0
    ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000)""",
    """CREATE INDEX toril_jobs_waiting ON toril_jobs (target, priority, place, job_id)
        WHERE due IS NULL AND token IS NULL""",
    "CREATE INDEX toril_jobs_delayed ON toril_jobs (target, due) WHERE due IS NOT NULL",
    "CREATE INDEX toril_jobs_leased ON toril_jobs (target, locked_until) WHERE token IS NOT NULL",
    """CREATE TABLE toril_queues (
        target {text} PRIMARY KEY, paused_since {double}, held_until {double}, window_until {double} NOT NULL DEFAULT 0,
        window_count INTEGER NOT NULL DEFAULT 0
    ) WITH (fillfactor = 50)""",
    "CREATE TABLE toril_breakers (target {text} PRIMARY KEY, breaker {bytes} NOT NULL) WITH (fillfactor = 50)",
    """CREATE TABLE toril_conditions (
        kind {text} NOT NULL, name {text} NOT NULL, condition {bytes} NOT NULL, until {double} NOT NULL,
        PRIMARY KEY (kind, name)
    )""",
)
"""The statements that make the tables, with the places of `sql_schema.Dialect`."""

NOW = "extract(epoch FROM clock_timestamp())::float8"
"""The time in SQL, also within a long transaction."""

PLACE_NOW = f"({NOW} * 1e6)::bigint"
"""The place of a job that begins to wait now."""
