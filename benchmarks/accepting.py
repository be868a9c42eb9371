"""Durable accepts: `POST /enqueue` in each ledger mode, beside what this machine's PostgreSQL can commit.

    python -m benchmarks.accepting [--mode postgres] [--mode sqlite] [--mode none] [--seconds 5] [--connections 64]

wrk posts one envelope a request. The ceilings are pgbench's, on the same server and tables: the same rows (a delivery
and its first transition) inserted one accept a transaction by as many clients, and as many accepts a transaction as
toril's commits had. What Python takes at least is that of `benchmarks.ceiling_accept`. Needs wrk; PostgreSQL is that of
the tests.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import yaml
from tests.support.postgres import USER, PostgresProcess

from benchmarks import procfs
from benchmarks.processes import run_to_end
from benchmarks.servers import start_target, start_valkey
from benchmarks.target import Target
from benchmarks.wrk import Load, Request, load, require

TOKEN = "bench"
ENVELOPE = {
    "target": "sink",
    "path": "/orders",
    "body": {"order": 4711, "customer": "c-81", "lines": [{"sku": "a-1", "count": 2}, {"sku": "b-7", "count": 1}]},
    "delay_ms": 3_600_000,
}
_INSERT = """
WITH given AS (SELECT gen_random_uuid()::text AS job_id FROM generate_series(1, {rows})),
accepted AS (
    INSERT INTO toril_deliveries (job_id, target, status, seq, created_at, updated_at, max_attempts, next_attempt_at,
    priority,
        labels, attempts_made, attempts_begun, token, fingerprint, envelope)
    SELECT job_id, 'sink', 'queued', 1, 1.7e9, 1.7e9, 8, 1.7e9, 0, '{{}}', 0, 0, '', '', '\\x{envelope}' FROM given
    RETURNING job_id
)
INSERT INTO toril_transitions (job_id, seq, status, at, actor) SELECT job_id, 1, 'queued', 1.7e9, 'bench' FROM accepted;
"""


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mode", action="append", choices=["postgres", "sqlite", "none"])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    require()
    print(f"{'':34} {'accepts/s':>10} {'p50 ms':>8} {'p99 ms':>8}")
    for mode in options.mode or ["postgres", "sqlite", "none"]:
        with ExitStack() as stack:
            _measure(stack, mode, options.connections, options.seconds)
    return 0


def _measure(stack: ExitStack, mode: str, connections: int, seconds: float) -> None:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    server = (
        stack.enter_context(PostgresProcess(shared_buffers="256MB", max_connections="200"))
        if mode == "postgres"
        else None
    )
    database = "" if server is None else server.database()
    url = {"postgres": database, "sqlite": f"sqlite:///{folder}/ledger.sqlite3", "none": "none"}[mode]
    config = folder / "toril.yaml"
    config.write_text(yaml.safe_dump({"targets": {"sink": {"url": "http://127.0.0.1:9"}}, "ledger": {"url": url}}))
    command = f"{{python}} -m toril serve --processes 1 --host 127.0.0.1 --port {{port}} --config {config}"
    store = start_valkey(stack)
    target = start_target(stack, "toril", command, store, TOKEN)
    load(_request(target), connections, 1.0)
    before = _commits(server, database)
    seen = _loaded(target, f"{mode}, {connections} connections", connections, seconds)
    if server is None:
        return
    commits = _commits(server, database) - before
    for name, option in (("  a bare ASGI app", ""), ("  a route of Starlette", " --starlette")):
        command = f"{{python}} -m benchmarks.ceiling_accept --port {{port}} --ledger {database}{option}"
        ceiling = start_target(stack, name.strip(), command, store, TOKEN)
        load(_request(ceiling), connections, 1.0)
        _loaded(ceiling, name, connections, seconds)
    per_commit = max(1, round(seen.requests / max(1, commits)))
    print(f"  {per_commit} accepts a commit, {commits / seconds:.0f} commits/s")
    for rows in sorted({1, per_commit}):
        per_s = _pgbench(server, database, folder, rows, connections, seconds)
        _row(f"  pgbench, {rows} a transaction", per_s, None, None)
        print(f"  toril is at {seen.per_s / per_s:.2f} of it")


def _request(target: Target) -> Request:
    return Request("POST", f"{target.url}/enqueue", TOKEN, json.dumps(ENVELOPE).encode())


def _loaded(target: Target, name: str, connections: int, seconds: float) -> Load:
    """Load a server, and print what came of it, with its CPU."""
    cpu_s = procfs.cpu_s(target.pid or 0)
    seen = load(_request(target), connections, seconds)
    cpu_s = procfs.cpu_s(target.pid or 0) - cpu_s
    if seen.bad_status or seen.broken:
        print(f"  ! {seen.bad_status} answers of 400 and above, {seen.broken} broken")
    _row(name, seen.per_s, seen.p50_us / 1000, seen.p99_us / 1000)
    print(f"  {cpu_s * 1e6 / max(1, seen.requests):.0f} µs of CPU an accept, {cpu_s / seconds:.2f} of one busy")
    return seen


def _row(name: str, per_s: float, p50_ms: float | None, p99_ms: float | None) -> None:
    shown = ["" if value is None else f"{value:.1f}" for value in (p50_ms, p99_ms)]
    print(f"{name:34} {per_s:10.0f} {shown[0]:>8} {shown[1]:>8}", flush=True)


def _commits(server: PostgresProcess | None, database: str) -> int:
    """How many transactions have written something, by the ids that they took."""
    if server is None:
        return 0
    return int(server.psql("SELECT pg_current_xact_id()::text::bigint", database.rpartition("/")[2]))


def _pgbench(
    server: PostgresProcess, database: str, folder: Path, rows: int, connections: int, seconds: float
) -> float:
    script = folder / f"insert-{rows}.sql"
    envelope = json.dumps(ENVELOPE["body"]).encode().hex()
    script.write_text(_INSERT.format(rows=rows, envelope=envelope).replace("\n", " ") + "\n")
    # Where one client inserts for many, fewer of them are on their way at once.
    clients = connections if rows == 1 else 2
    printed = run_to_end(
        [
            str(server.binaries / "pgbench"), "-n", "-M", "prepared", "-h", "127.0.0.1", "-p", str(server.port),
            "-U", USER, "-c", str(clients), "-j", "1", "-T", str(round(seconds)), "-f", str(script),
            database.rpartition("/")[2],
        ],
        timeout_s=seconds + 60,
    )  # fmt: skip
    (tps,) = (line for line in printed.stdout.decode().splitlines() if line.startswith("tps = "))
    return float(tps.split()[2]) * rows


if __name__ == "__main__":
    sys.exit(main())
