"""The tables of the targets' queues in PostgreSQL, beside the ledger's.

`toril_jobs` has one row per unfinished delivery that is in its target's queue. A row with `due` is delayed, one with a
`token` is leased until `locked_until`, and the others wait, the smallest `priority` and `place` first. The ledger stays
the truth: a job that is lost is put back by the recoverer, so most writes here do not wait for the disk.

`toril_queues` has a row for each target that was ever paused, held or limited, `toril_breakers` one for each whose
breaker knows anything, and `toril_conditions` one for each lasting condition that operators are told of. Times are
seconds since the epoch by PostgreSQL's clock.

Jobs may have a group. `toril_groups` has a row for each group with waiting jobs (`waits`), with limits that were set
(`limited`) or with a rate that has not passed yet (`arrival`). `start_at` is 0 while it may start a job, a time or
infinity while it is at a limit, and null otherwise. `toril_members` has a row for each member (`t` of `t/1`, `t/2`)
that is `ready` to start a job, or has left with a tag beyond the virtual time of its target. A slot of a group is a
leased job of it. `sql/groups.sql` changes these rows, while it has the target's row of `toril_queues` locked.
`toril_rooms` has a row for each envelope that is being accepted into a group with a `max_waiting` (`sql/rooms.sql`).
"""

from __future__ import annotations

from importlib.resources import files


def _sql(name: str) -> str:
    return files("toril.delivery.postgres_queue").joinpath("sql", name).read_text("utf-8")


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

GROUP_TABLES = (
    "ALTER TABLE toril_jobs ADD COLUMN job_group {text}",
    # `grouped`: some of its jobs may have a group.
    """ALTER TABLE toril_queues ADD COLUMN grouped BOOLEAN NOT NULL DEFAULT false,
        ADD COLUMN virtual_time {double} NOT NULL DEFAULT 0, ADD COLUMN plain_tag {double} NOT NULL DEFAULT 0,
        ADD COLUMN turn BIGINT NOT NULL DEFAULT 0, ADD COLUMN group_default {text}""",
    "DROP INDEX toril_jobs_waiting",
    """CREATE INDEX toril_jobs_waiting ON toril_jobs (target, priority, place, job_id)
        WHERE due IS NULL AND token IS NULL AND job_group IS NULL""",
    """CREATE INDEX toril_jobs_held ON toril_jobs (target, job_group, (starts = 0), priority, place, job_id)
        WHERE due IS NULL AND token IS NULL AND job_group IS NOT NULL""",
    """CREATE INDEX toril_jobs_slots ON toril_jobs (target, job_group, locked_until)
        WHERE token IS NOT NULL AND job_group IS NOT NULL""",
    """CREATE TABLE toril_groups (
        target {text} NOT NULL, name {text} NOT NULL, member {text} NOT NULL, turn BIGINT NOT NULL DEFAULT 0,
        start_at {double}, waits BOOLEAN NOT NULL DEFAULT false, arrival {double} NOT NULL DEFAULT 0,
        limited BOOLEAN NOT NULL DEFAULT false, concurrency INTEGER, most INTEGER, per {double}, weight INTEGER,
        max_waiting INTEGER, paused BOOLEAN NOT NULL DEFAULT false, PRIMARY KEY (target, name)
    ) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000)""",
    "CREATE INDEX toril_groups_turns ON toril_groups (target, member, turn) WHERE start_at = 0",
    "CREATE INDEX toril_groups_limited ON toril_groups (target, start_at, name) WHERE start_at > 0",
    "CREATE INDEX toril_groups_waiting ON toril_groups (target) WHERE waits",
    """CREATE INDEX toril_groups_passing ON toril_groups (target, arrival)
        WHERE start_at IS NULL AND NOT waits AND NOT limited""",
    """CREATE TABLE toril_members (
        target {text} NOT NULL, name {text} NOT NULL, tag {double} NOT NULL, ready BOOLEAN NOT NULL,
        PRIMARY KEY (target, name)
    ) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000)""",
    "CREATE INDEX toril_members_ready ON toril_members (target, tag, name) WHERE ready",
    "CREATE INDEX toril_members_past ON toril_members (target, tag) WHERE NOT ready",
    _sql("groups.sql"),
)
"""The statements that add groups, with the places of `sql_schema.Dialect`."""

STATISTICS_TABLES = (
    """CREATE TABLE toril_points (
        resolution {text} NOT NULL, scope {text} NOT NULL, slot BIGINT NOT NULL, counts {bytes} NOT NULL,
        until {double} NOT NULL, PRIMARY KEY (resolution, scope, slot)
    ) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000)""",
    "CREATE INDEX toril_points_until ON toril_points (until)",
    """CREATE TABLE toril_failures (
        block BIGINT NOT NULL, queue {bytes} NOT NULL, reason {bytes} NOT NULL, times BIGINT NOT NULL,
        last {double} NOT NULL, PRIMARY KEY (block, queue, reason)
    ) WITH (fillfactor = 50)""",
    "CREATE TABLE toril_audit (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, line {bytes} NOT NULL)",
)
"""The statements that add statistics and lines of the audit log."""

ROOM_TABLES = (
    """CREATE TABLE toril_rooms (
        target {text} NOT NULL, name {text} NOT NULL, job_id {text} NOT NULL, until {double} NOT NULL,
        PRIMARY KEY (target, name, job_id)
    ) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000)""",
    _sql("rooms.sql"),
)
"""The statements that add the room that envelopes take in groups."""

NOW = "extract(epoch FROM clock_timestamp())::float8"
"""The time in SQL, also within a long transaction."""

PLACE_NOW = f"({NOW} * 1e6)::bigint"
"""The place of a job that begins to wait now."""
