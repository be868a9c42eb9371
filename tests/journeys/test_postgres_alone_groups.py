"""Groups of deliveries over PostgreSQL alone, in a fleet of which one process is killed."""

import asyncio
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.alone import NO_REDIS, alone
from tests.support.deliveries import Door
from tests.support.endpoint import Answer, Call, Endpoint, respond
from tests.support.postgres import PostgresProcess
from tests.support.toril import StartToril
from tests.support.waiting import eventually

PATIENCE_S = 60.0
TENANTS = ("a", "b", "c")


class Slots:
    """What runs at the target, by tenant. Calls of the first process wait for the gate, and are broken off with it."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.gate = threading.Event()

    async def behave(self, call: Call) -> Answer:
        tenant = call.target.strip("/")
        self.running[tenant] += 1
        self.most[tenant] = max(self.most[tenant], self.running[tenant])
        try:
            while not self.gate.is_set():
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.002)
            return respond()
        finally:
            self.running[tenant] -= 1


@pytest.mark.promise
def test_one_delivery_of_a_tenant_runs_at_once_in_a_fleet_that_is_killed_and_no_slot_leaks(
    tmp_path: Path, postgres: PostgresProcess, start_toril: StartToril
) -> None:
    slots, ledger = Slots(), postgres.database()
    database = ledger.rpartition("/")[2]

    def tables(sql: str) -> str:
        return postgres.psql(sql, database).strip()

    with Endpoint(slots.behave) as endpoint:
        target = {"url": endpoint.at("/"), "group_by": "labels.tenant", "group": {"concurrency": 1}, "concurrency": 8}
        args = alone(tmp_path / "toril.yaml", ledger, {"billing": target})
        options: dict[str, Any] = {"args": args, "env": {"TORIL_LOCK": "2s", "TORIL_STALLED_INTERVAL": "30s"}}
        doomed = start_toril(NO_REDIS, **options)
        door = Door(doomed.gateway)
        ids = [door.enqueue("billing", path=f"/{name}", labels={"tenant": name}) for name in TENANTS for _ in range(4)]
        endpoint.wait_for_calls(3, timeout_s=PATIENCE_S)
        fleet = [start_toril(NO_REDIS, **options) for _ in range(2)]
        doomed.kill()
        eventually(lambda: not +slots.running, timeout_s=PATIENCE_S, what="the calls of the killed process to end")
        doors = [Door(one.gateway) for one in fleet]
        more = [{"target": "billing", "path": f"/{name}", "group": {"id": name}} for name in TENANTS for _ in range(40)]
        for number, part in enumerate((more[::2], more[1::2])):
            answered = doors[number].http.post("/enqueue/batch", json=part).json()
            ids += [one["job_id"] for one in answered]
        slots.gate.set()
        eventually(lambda: tables("SELECT count(*) FROM toril_jobs") == "0", timeout_s=PATIENCE_S, what="all to end")
        listed = doors[0].http.get("/jobs", params={"limit": 500}).json()["jobs"]
        assert Counter(job["status"] for job in listed) == {"delivered": 132}
        assert len(set(ids)) == 132
        assert slots.most == {"a": 1, "b": 1, "c": 1}
        lost = [one["outcome"] for job_id in ids[:12] for one in doors[1].job(job_id)["attempts"]]
        assert Counter(lost) == {"lost": 3, "answered": 12}, "each killed attempt freed its slot and was made again"
        assert len({change["by"] for job_id in ids for change in doors[0].job(job_id)["transitions"]}) == 3
        gone = "SELECT count(*) FROM toril_groups UNION ALL SELECT count(*) FROM toril_members"
        eventually(lambda: set(tables(gone).split()) == {"0"}, timeout_s=PATIENCE_S, what="no row of a group is left")
