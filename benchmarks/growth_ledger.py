"""What an accepted envelope and a page of the list cost beside few and beside many rows of a ledger in PostgreSQL.

The rows are copies of one that toril has accepted, with the transitions and the attempt of a delivery that has ended;
the database makes them.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
from tests.support.postgres import PostgresProcess

from benchmarks.growing import TOKEN, Figures, Options, Steps, get, load, median_of_each, post
from benchmarks.processes import ProcessError
from benchmarks.procfs import cpu_s
from benchmarks.servers import TORIL, start_target, start_valkey
from benchmarks.target import Target
from toril.delivery.ledger.sql_schema import NEW
from toril.web.parameters import cursor_of

_FEW = 1_000
_PAGE = 50
_READY_S = 60.0
_TARGET = "bench"
_ENVELOPE = msgspec.json.encode({"target": _TARGET, "body": {"n": 1}})
_AT_ONCE = 250_000
_OVER_S = 3_600.0

# The deliveries of an hour, of which the janitor removes none yet, number `first` to `last` of `count`. Their ids sort
# by their time, as those of toril (UUID 7).
_NUMBERED = """
SELECT n, at, substr(ms, 1, 8) || '-' || substr(ms, 9, 4) || '-7000-8000-' || lpad(to_hex(n), 12, '0') AS id
FROM (SELECT n, at, lpad(to_hex((at * 1000)::bigint), 12, '0') AS ms
  FROM (SELECT n, extract(epoch FROM now()) - {over} + n * {over} / {count} AS at
    FROM generate_series({first}, {last}) AS n) AS made) AS timed
"""
_CHANGED = {
    "job_id": "id",
    "status": "'delivered'",
    "seq": "3",
    "created_at": "at",
    "updated_at": "at + 1",
    "finished_at": "at + 1",
    "next_attempt_at": "NULL",
    "attempts_made": "1",
    "attempts_begun": "1",
}
_FILL = """
CREATE TEMP TABLE numbered AS {numbered};
INSERT INTO toril_deliveries ({columns}) SELECT {values} FROM numbered,
  (SELECT * FROM toril_deliveries ORDER BY job_id DESC LIMIT 1) AS one;
INSERT INTO toril_transitions (job_id, seq, source, status, at, actor)
  SELECT id, seq, source, status, at + (seq - 1) / 2.0, 'bench' FROM numbered,
  (VALUES (1, NULL, 'queued'), (2, 'queued', 'dispatching'), (3, 'dispatching', 'delivered'))
  AS step (seq, source, status);
INSERT INTO toril_attempts (job_id, number, started_at, duration, outcome, status_code)
  SELECT id, 1, at, 0.1, 'answered', 200 FROM numbered;
"""


class LedgerServer:
    """One toril over its own database, whose only target is paused."""

    def __init__(self, stack: ExitStack, postgres: PostgresProcess, rows: int) -> None:
        self._postgres = postgres
        self._url = postgres.database()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toril-bench-")))
        settings = {"targets": {_TARGET: {"url": "http://127.0.0.1:9/"}}, "ledger": {"url": self._url}}
        (folder / "toril.yaml").write_text(msgspec.yaml.encode(settings).decode())
        command = f"{TORIL} --config {folder}/toril.yaml"
        self.target: Target = start_target(stack, "toril", command, start_valkey(stack), TOKEN)
        _until_ready(self.target)
        load(self.target, [post(f"/targets/{_TARGET}/pause", b"")], 1, 1, 1.0)
        load(self.target, [post("/enqueue", _ENVELOPE)], 8, 0, 1.0)
        self._fill(rows)

    @property
    def database(self) -> str:
        """The name of its database."""
        return self._url.rpartition("/")[2]

    def _fill(self, rows: int) -> None:
        columns = NEW.split(", ")
        values = ", ".join(_CHANGED.get(column, f"one.{column}") for column in columns)
        for first in range(0, rows, _AT_ONCE):
            last = min(first + _AT_ONCE, rows) - 1
            numbered = _NUMBERED.format(over=_OVER_S, count=rows, first=first, last=last)
            self._postgres.psql(
                _FILL.format(numbered=numbered, columns=", ".join(columns), values=values), self.database
            )
        self._postgres.psql("VACUUM ANALYZE", self.database)
        self._postgres.psql("CHECKPOINT", self.database)

    def rows(self) -> int:
        """Return how many deliveries that have ended the ledger has: those that were made."""
        sql = "SELECT count(*) FROM toril_deliveries WHERE status = 'delivered'"
        return int(self._postgres.psql(sql, self.database))

    def disk_mb(self) -> float:
        """Return what the database takes of the disk."""
        return int(self._postgres.psql("SELECT pg_database_size(current_database())", self.database)) / 1e6

    def middle(self) -> str:
        """Return the id of a delivery in the middle of those that were made."""
        sql = "SELECT job_id FROM toril_deliveries WHERE status = 'delivered' ORDER BY job_id OFFSET {} LIMIT 1"
        return self._postgres.psql(sql.format(self.rows() // 2), self.database)

    def cost(self, request: bytes, seconds: float) -> tuple[float, float, float]:
        """Return microseconds of CPU of toril and of PostgreSQL for each request, and milliseconds of the median."""
        pids = [self.target.pid or 0, self._postgres.pid]
        before = [cpu_s(pid) for pid in pids]
        seen = load(self.target, [request], 16, 0, seconds)
        toril_us, postgres_us = (
            (cpu_s(pid) - was) / max(1, seen.answered) * 1e6 for pid, was in zip(pids, before, strict=True)
        )
        return toril_us, postgres_us, seen.p50_us / 1e3


def _until_ready(target: Target) -> None:
    """Wait for the ledger, which a toril that answers may not have opened yet."""
    give_up_s = time.monotonic() + _READY_S
    while httpx.get(f"{target.url}/ready", trust_env=False).status_code != 200:
        if time.monotonic() > give_up_s:
            raise ProcessError("toril does not get ready")
        time.sleep(0.1)


def ledger(options: Options) -> Steps:
    """Envelopes accepted, and pages of the newest and of older deliveries, in turns beside few and many rows."""
    seen: dict[str, list[Figures]] = {}
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresProcess(max_wal_size="4GB", autovacuum="off"))
        servers = {count: LedgerServer(stack, postgres, count) for count in (_FEW, options.rows)}
        made = {count: server.rows() for count, server in servers.items()}
        middles = {count: server.middle() for count, server in servers.items()}
        for _ in range(options.rounds):
            for count, server in servers.items():
                requests = {
                    "an accept": post("/enqueue", _ENVELOPE),
                    "the first page": get(f"/jobs?limit={_PAGE}"),
                    "a page in the middle": get(f"/jobs?limit={_PAGE}&cursor={cursor_of(middles[count])}"),
                    "a page by status": get(f"/jobs?limit={_PAGE}&target={_TARGET}&status=delivered"),
                }
                figures: Figures = {}
                for what, request in requests.items():
                    toril_us, postgres_us, p50_ms = server.cost(request, options.seconds)
                    figures[f"µs of CPU {what}"] = toril_us
                    figures[f"µs of PostgreSQL {what}"] = postgres_us
                    figures[f"ms p50 {what}"] = p50_ms
                seen.setdefault(f"{count:,}", []).append(figures)
        for count, server in servers.items():
            for figures in seen[f"{count:,}"]:
                figures |= {"MB of disk": server.disk_mb(), "rows made": float(made[count])}
    return median_of_each(seen)
