"""The ledger outlives what happens to the queues: Redis flushed or away, processes killed, disks full."""

import asyncio
import os
import resource
import signal
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.deliveries import LATER, Door, configuration, recovered
from tests.support.endpoint import Answer, Call, Endpoint, respond
from tests.support.toril import StartToril
from tests.support.valkey import StartValkey, ValkeyProcess
from tests.support.waiting import eventually
from toril.delivery.rules.delivery import queue_of

NOWHERE = "http://127.0.0.1:9/"
SOON = {"recover_every": "300ms"}
NEVER = {"recover_every": "1h"}
PATIENCE_S = 30.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "toril.yaml"


def configured(file: Path, delivery: dict[str, str]) -> list[str]:
    """Arguments of a toril whose ledger is beside its configuration."""
    url = f"sqlite:///{file.parent}/ledger.sqlite3"
    return ["--config", str(configuration(file, {"billing": NOWHERE}, ledger={"url": url}, delivery=delivery))]


def waiting(valkey: ValkeyProcess) -> list[str]:
    """The ids of the jobs that wait for their time in the target's queue, with repetitions if there were any."""
    ids: Any = valkey.client().zrange(f"bull:{queue_of('billing')}:delayed", 0, -1)
    return sorted(ids)


def test_a_flushed_redis_gets_every_job_back_once_with_two_instances_at_it(
    file: Path, start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey = start_valkey()
    # An hour's wait is due before the next comparison but one, so it has to be in the queue already.
    arguments = configured(file, {"recover_every": "1h"})
    one, other = (start_toril(valkey, args=arguments) for _ in range(2))
    ids = sorted(Door(one.gateway).enqueue("billing", **LATER) for _ in range(25))
    assert waiting(valkey) == ids
    one.terminate()
    other.terminate()
    valkey.client().flushall()
    one.start()
    other.start()
    eventually(lambda: waiting(valkey) == ids, timeout_s=PATIENCE_S)
    histories = [Door(other.gateway).job(job_id)["transitions"] for job_id in ids]
    assert {len(history) for history in histories} == {1}


def test_a_redis_that_is_flushed_under_a_running_toril_gets_its_jobs_back(
    file: Path, start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey = start_valkey()
    door = Door(start_toril(valkey, args=configured(file, {"recover_every": "3s"})).gateway)
    # Due in five seconds, which is before the next comparison but one.
    job_id = door.enqueue("billing", delay_ms=5000)
    valkey.client().flushall()
    eventually(lambda: waiting(valkey) == [job_id] or door.job(job_id)["attempts"], timeout_s=PATIENCE_S)


def test_a_loss_of_redis_is_noticed_long_before_the_next_comparison(
    file: Path, start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey = start_valkey()
    door = Door(start_toril(valkey, args=configured(file, NEVER)).gateway)
    ids = sorted(door.enqueue("billing", **LATER) for _ in range(3))
    valkey.client().flushall()
    eventually(lambda: waiting(valkey) == ids, timeout_s=PATIENCE_S, what="the jobs to be back")


def test_deliveries_accepted_while_redis_is_away_are_queued_when_it_is_back(
    file: Path, start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey = start_valkey()
    door = Door(start_toril(valkey, args=configured(file, NEVER)).gateway)
    valkey.stop()
    key = uuid.uuid4().hex
    job_id = door.enqueue("billing", key, **LATER)
    again = door.post({"target": "billing"} | LATER, key)
    assert (again.status_code, again.json()["job_id"]) == (200, job_id)
    valkey.start()
    eventually(lambda: door.http.get("/ready").status_code == 200, timeout_s=PATIENCE_S)
    assert door.post({"target": "billing"} | LATER, key).status_code == 200
    eventually(lambda: waiting(valkey) == [job_id], timeout_s=PATIENCE_S)


def test_a_killed_process_loses_nothing_that_was_accepted(
    file: Path, start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, args=configured(file, SOON))
    ids = [Door(toril.gateway).enqueue("billing", **LATER) for _ in range(10)]
    toril.kill()
    toril.start()
    door = Door(toril.gateway)
    assert sorted(door.jobs()) == sorted(ids)
    assert waiting(valkey) == sorted(ids)


def test_recover_puts_back_missing_jobs_and_reports_them(
    file: Path, start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey = start_valkey()
    arguments = configured(file, NEVER)
    toril = start_toril(valkey, args=arguments)
    ids = sorted(Door(toril.gateway).enqueue("billing", **LATER) for _ in range(3))
    toril.terminate()
    valkey.client().flushall()

    def recover() -> str:
        return recovered(arguments, {"REDIS_URL": valkey.url})

    assert recover() == "billing: 3 put back into the queue, 0 lost attempts ended, 0 past their deadline\n"
    assert waiting(valkey) == ids
    assert recover().startswith("billing: 0 put back")


def test_a_full_disk_is_503_and_accepts_no_part_of_a_batch(
    file: Path, start_valkey: StartValkey, start_toril: StartToril
) -> None:
    valkey = start_valkey()
    toril = start_toril(valkey, args=configured(file, SOON))
    door = Door(toril.gateway)
    before = [door.enqueue("billing", body="x" * 50_000, **LATER) for _ in range(20)]
    log = file.parent / "ledger.sqlite3-wal"
    free = resource.prlimit(toril.pid, resource.RLIMIT_FSIZE)
    # No file of this process may grow: what a full disk does, but for this process alone.
    resource.prlimit(toril.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, free[1]))
    key = uuid.uuid4().hex
    envelope = {"target": "billing", "body": "x" * 50_000} | LATER
    eventually(lambda: toril.status("/ready") == 503, timeout_s=PATIENCE_S, what="a full disk to be noticed")
    answer = door.post(envelope, key)
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    batch = door.http.post("/enqueue/batch", json=[envelope] * 3)
    assert {item["status_code"] for item in batch.json()} == {503}
    assert sorted(door.jobs()) == sorted(before)
    assert waiting(valkey) == sorted(before)
    assert toril.status("/ready") == 503
    resource.prlimit(toril.pid, resource.RLIMIT_FSIZE, free)
    eventually(lambda: door.http.get("/ready").status_code == 200, timeout_s=PATIENCE_S)
    door.enqueue("billing", key, body="x" * 50_000, **LATER)
    assert toril.running


def test_a_ledger_file_that_is_deleted_accepts_nothing_until_it_is_back(
    file: Path, start_valkey: StartValkey, start_toril: StartToril
) -> None:
    toril = start_toril(start_valkey(), args=configured(file, SOON))
    door = Door(toril.gateway)
    job_id = door.enqueue("billing", **LATER)
    ledger, elsewhere = file.parent / "ledger.sqlite3", file.parent / "elsewhere"
    ledger.rename(elsewhere)
    answer = door.post({"target": "billing"})
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    eventually(lambda: toril.status("/ready") == 503, timeout_s=PATIENCE_S)
    (reason,) = toril.reasons()
    assert "deleted or moved away" in reason
    assert str(file.parent) not in reason
    eventually(lambda: '"recoverer.ledger_failed", "level": "error"' in toril.log(), timeout_s=PATIENCE_S)
    assert not ledger.exists()
    elsewhere.rename(ledger)
    eventually(lambda: toril.status("/ready") == 200, timeout_s=PATIENCE_S)
    assert door.job(job_id)["status"] == "queued"
    another = door.enqueue("billing", **LATER)
    toril.kill()
    toril.start()
    assert sorted(door.jobs()) == sorted([job_id, another])


def test_a_process_that_starts_after_the_ledger_file_was_deleted_makes_no_new_one(
    file: Path, start_valkey: StartValkey, start_toril: StartToril
) -> None:
    toril = start_toril(start_valkey(), args=(*configured(file, SOON), "--processes", "2"))
    door = Door(toril.gateway)
    job_id = door.enqueue("billing", **LATER)
    ledger, elsewhere = file.parent / "ledger.sqlite3", file.parent / "elsewhere"
    ledger.rename(elsewhere)
    refused = '"recoverer.ledger_failed", "level": "error"'  # each process says so once
    eventually(lambda: toril.log().count(refused) == 2, timeout_s=PATIENCE_S)
    for pid in toril.children():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: ledger.exists() or toril.log().count(refused) == 4, timeout_s=PATIENCE_S)
    assert not ledger.exists()
    eventually(lambda: toril.status("/health") == 200, timeout_s=PATIENCE_S)
    assert door.post({"target": "billing"}).status_code == 503
    elsewhere.rename(ledger)
    eventually(lambda: toril.status("/ready") == 200, timeout_s=PATIENCE_S)
    assert door.job(job_id)["status"] == "queued"


@pytest.mark.parametrize("flushed", [False, True], ids=["and Redis stays", "and Redis is flushed"])
def test_a_known_answer_outlives_a_ledger_outage_longer_than_its_lease(
    file: Path, start_valkey: StartValkey, start_toril: StartToril, endpoint: Endpoint, flushed: bool
) -> None:
    valkey = start_valkey()
    may_answer = threading.Event()

    async def behaviour(_: Call) -> Answer:
        while not may_answer.is_set():
            await asyncio.sleep(0.01)
        return respond()

    endpoint.behaviour = behaviour
    targets = {"billing": {"url": endpoint.url, "concurrency": 10, "timeout": {"connect": "1s", "total": "3s"}}}
    ledger = file.parent / "ledger.sqlite3"
    delivery = {"lease": "100ms", "recover_every": "100ms"}
    args = ["--config", str(configuration(file, targets, ledger={"url": f"sqlite:///{ledger}"}, delivery=delivery))]
    pair = [start_toril(valkey, args=args, env={"TORIL_LOCK": "3s"}) for _ in range(2)]
    door = Door(pair[0].gateway)
    ids = [door.enqueue("billing") for _ in range(10)]
    endpoint.wait_for_calls(10, timeout_s=PATIENCE_S)
    ledger.rename(file.parent / "elsewhere")
    over_at = time.monotonic() + 3.5
    may_answer.set()
    eventually(lambda: sum(toril.log().count("the job is held") for toril in pair) == 10, timeout_s=PATIENCE_S)
    if flushed:
        valkey.client().flushall()  # the locks are gone with everything else
    eventually(lambda: time.monotonic() > over_at, timeout_s=PATIENCE_S, what="the end of all leases")
    (file.parent / "elsewhere").rename(ledger)
    assert [door.job(job_id, wait=30)["status"] for job_id in ids] == ["delivered"] * 10
    sent = Counter(call.header("toril-job-id") for call in endpoint.calls)
    assert sent == Counter(ids), "each once"
    for job_id in ids:
        found = door.job(job_id)
        assert [(attempt["number"], attempt["outcome"]) for attempt in found["attempts"]] == [(1, "answered")]
    eventually(lambda: not valkey.client().keys(f"bull:{queue_of('billing')}:*-*"), timeout_s=PATIENCE_S)
