"""node-postgres calls `toril.enqueue` in its own transactions."""

import json
import subprocess
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.deliveries import Door
from tests.support.endpoint import Endpoint
from tests.support.postgres import PostgresProcess
from tests.support.sql_enqueue import SqlCaller
from tests.support.toril import StartToril
from tests.support.valkey import ValkeyProcess

ENQUEUE = "SELECT toril.enqueue($1, body => $2, headers => $3, idempotency_key => $4) AS id"


def carried_out(folder: Path, url: str, *steps: tuple[str, list[Any]]) -> list[dict[str, Any]]:
    """What each step gave, over one connection."""
    done = subprocess.run(
        ["node", "sql.mjs", url],
        cwd=folder,
        input="".join(json.dumps({"sql": sql, "values": values}) + "\n" for sql, values in steps),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.node
def test_node_postgres_delivers_committed_rows_and_nothing_else(
    node_modules: Path,
    postgres: PostgresProcess,
    valkey: ValkeyProcess,
    tmp_path: Path,
    start_toril: StartToril,
    endpoint: Endpoint,
) -> None:
    caller = SqlCaller(postgres, tmp_path, {"billing": endpoint.at("/")})
    env = {"QUEUE_PREFIX": f"test-{uuid.uuid4().hex[:8]}"}
    toril = start_toril(valkey, args=["--config", str(caller.config)], env=env)
    buffer = {"type": "json", "text": "zwei \u20ac"}
    found = carried_out(
        node_modules,
        caller.url,
        ("BEGIN", []),
        ("INSERT INTO orders VALUES ($1)", [1]),
        (ENQUEUE, ["billing", buffer, {"x-a": ["1", "2"]}, "kept"]),
        ("COMMIT", []),
        ("BEGIN", []),
        (ENQUEUE, ["billing", buffer, None, "rolled-back"]),
        ("ROLLBACK", []),
        (ENQUEUE, ["billing", buffer, {"x-a": ["1", "2"]}, "kept"]),
        (ENQUEUE, ["billing", {"other": 1}, None, "kept"]),
        (ENQUEUE, ["nowhere", None, None, None]),
        (ENQUEUE, ["billing", None, {"host": "x"}, None]),
        (ENQUEUE, ["billing", None, None, "last"]),
        ("SELECT toril.job($1) ->> 'target' AS target", [str(uuid.UUID(int=0))]),
    )
    job_id = found[2]["rows"][0]["id"]
    assert found[7] == {"rows": [{"id": job_id}]}
    assert [(one["error"]["message"], one["error"].get("column")) for one in found[8:11]] == [
        ("idempotency_mismatch", "idempotency_key"),
        ("unknown_target", "target"),
        ("invalid_envelope", "headers"),
    ]
    assert found[12] == {"rows": [{"target": None}]}
    door = Door(toril.gateway)
    assert door.job(job_id, wait=20)["status"] == "delivered"
    endpoint.wait_for_calls(2)
    assert Counter(call.header("idempotency-key") for call in endpoint.calls) == Counter(["kept", "last"])
    kept = next(call for call in endpoint.calls if call.header("idempotency-key") == "kept")
    assert kept.json == buffer
    assert len(door.jobs()) == 2
