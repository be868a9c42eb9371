"""Targets over several processes and restarts: one breaker for all, pauses that last, large bodies in flat memory."""

import base64
import hashlib
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Call, Endpoint, respond
from tests.support.s3 import S3Server
from tests.support.toril import StartToril
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

MB = 1024 * 1024
OPEN_FOR_S = 0.3


@pytest.fixture
def own_valkey(start_valkey: Callable[..., ValkeyProcess]) -> ValkeyProcess:
    return start_valkey()


def config(folder: Path, **target: Any) -> list[str]:
    """The arguments of a toril with one target, whose ledger is Redis."""
    file = configuration(folder / "toril.yaml", {"billing": target}, ledger={"url": "none"})
    return ["--config", str(file)]


def test_two_workers_send_only_probes_to_an_unhealthy_target(
    tmp_path: Path, own_valkey: ValkeyProcess, start_toril: StartToril, endpoint: Endpoint
) -> None:
    args = config(
        tmp_path,
        url=endpoint.at("/"),
        concurrency=5,
        retry={"base": "1ms", "max": "1ms", "max_attempts": 10_000},
        breaker={"failures": 3, "window": "10m", "open_for": f"{OPEN_FOR_S:g}s", "half_open_probes": 1},
    )
    endpoint.behaviour = lambda _: respond(503)
    one = start_toril(own_valkey, args=args)
    start_toril(own_valkey, args=args)
    door = Door(one.gateway)
    jobs = [door.enqueue("billing") for _ in range(40)]

    def state() -> str:
        found: str = one.client.get("/targets/billing").json()["breaker"]["state"]
        return found

    eventually(lambda: state() == "open", timeout_s=30)
    # Three failures open it, with five more under way in each process at most; whatever comes after them is a probe.
    sure = 3 + 2 * 5
    probes = endpoint.wait_for_calls(sure + 4, timeout_s=90)[sure : sure + 4]
    gaps = [later.at - sooner.at for sooner, later in pairwise(probes)]
    assert min(gaps) > OPEN_FOR_S * 0.9, f"between two probes it stays open: {gaps}"
    endpoint.behaviour = lambda _: respond(200)

    def ended() -> bool:
        return all(door.job(job_id)["status"] == "delivered" for job_id in jobs)

    eventually(ended, timeout_s=60)
    assert state() == "closed"
    numbers = {
        job_id: [
            int(call.header("toril-attempt") or 0) for call in endpoint.calls if call.header("toril-job-id") == job_id
        ]
        for job_id in jobs
    }
    left = set(own_valkey.client().scan_iter("bull:deliver-billing:*"))
    assert not left & {f"bull:deliver-billing:{job_id}" for job_id in jobs}, "what is over is in the ledger alone"
    for job_id in jobs:
        found = door.job(job_id)
        # Every attempt that a job has spent was one that arrived, and none is missing.
        assert numbers[job_id] == list(range(1, found["attempts_made"] + 1))


def test_a_pause_outlives_a_restart_and_leaves_running_attempts_alone(
    tmp_path: Path, own_valkey: ValkeyProcess, start_toril: StartToril, endpoint: Endpoint
) -> None:
    args = config(tmp_path, url=endpoint.at("/"), concurrency=2)
    gate = endpoint.gate()

    async def held(_: Call) -> Any:
        await gate.passed()
        return respond()

    endpoint.behaviour = held
    toril = start_toril(own_valkey, args=args)
    door = Door(toril.gateway)
    running = door.enqueue("billing")
    endpoint.wait_for_calls(1)
    for _ in range(2):
        assert toril.client.post("/targets/billing/pause").status_code == 204
    waiting = [door.enqueue("billing") for _ in range(3)]
    gate.open()
    eventually(lambda: door.job(running)["status"] == "delivered")
    toril.terminate()
    toril.start()
    assert toril.client.get("/targets/billing").json()["paused"] is True
    assert {door.job(job_id)["status"] for job_id in waiting} == {"queued"}
    assert len(endpoint.calls) == 1
    for _ in range(2):
        assert toril.client.post("/targets/billing/resume").status_code == 204
    eventually(lambda: all(door.job(job_id)["status"] == "delivered" for job_id in waiting), timeout_s=30)
    assert toril.client.get("/targets/billing").json()["paused"] is False


def test_a_rotated_secret_and_another_policy_count_without_a_restart(
    tmp_path: Path, own_valkey: ValkeyProcess, start_toril: StartToril, endpoint: Endpoint
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("old-secret")
    target: dict[str, Any] = {"url": endpoint.at("/"), "auth": {"scheme": "bearer", "secret_file": str(secret)}}
    toril = start_toril(
        own_valkey, args=config(tmp_path, **target, retry={"max_attempts": 5, "base": "1h", "max": "1h"})
    )
    door = Door(toril.gateway)
    endpoint.behaviour = lambda _: respond(503)
    waiting = door.enqueue("billing")
    eventually(lambda: door.job(waiting)["status"] == "retrying")
    secret.write_text("new-secret")
    config(tmp_path, **target, retry={"max_attempts": 1}, rate_limit={"max": 100, "per": "1s"})
    assert toril.client.post("/reload").status_code == 200
    dead = door.enqueue("billing")
    eventually(lambda: door.job(dead)["status"] == "dead_lettered")
    assert [call.header("authorization") for call in endpoint.calls] == ["Bearer old-secret", "Bearer new-secret"]
    shown = toril.client.get("/targets/billing").json()
    assert (shown["config"]["retry"]["max_attempts"], shown["config"]["rate_limit"]) == (1, {"max": 100, "per": "1s"})
    assert (shown["config_generation"], shown["pending_rollout"]) == (2, [])
    config(tmp_path, **target, retry={"max_attempts": 1}, rate_limit={"max": 100, "per": "1s"}, concurrency=1)
    assert toril.client.post("/reload").status_code == 200
    assert toril.client.get("/targets").json()["pending_rollout"] == ["targets.billing.concurrency"]


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_body_of_50_mb_goes_through_s3_in_flat_memory(
    tmp_path: Path, own_valkey: ValkeyProcess, start_toril: StartToril, endpoint: Endpoint, s3: S3Server
) -> None:
    bucket = s3.make_bucket()
    seen: dict[str, str] = {}

    def note(call: Call) -> Any:
        seen[call.header("toril-job-id") or ""] = hashlib.sha256(call.body).hexdigest()
        return respond(200, body=b"y" * 500_000)

    endpoint.behaviour = note
    file = configuration(
        tmp_path / "toril.yaml",
        {"billing": {"url": endpoint.at("/"), "timeout": {"total": "5m"}}},
        ledger={"url": "none"},
        payloads={"url": f"s3://{bucket}/bodies"},
    )
    toril = start_toril(own_valkey, args=["--config", str(file)], env=s3.env)
    door = Door(toril.gateway)
    assert toril.client.post("/targets/billing/pause").status_code == 204
    body = os.urandom(MB) * 50
    answer = toril.client.post(
        "/enqueue", json={"target": "billing", "body_base64": base64.b64encode(body).decode()}, timeout=120
    )
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["job_id"]
    assert len(s3.keys(bucket)) == 1
    # A fresh process, so that its peak is that of delivering.
    toril.terminate()
    toril.start()
    before = peak_bytes(toril.pid)
    assert toril.client.post("/targets/billing/resume").status_code == 204
    eventually(lambda: door.job(job_id)["status"] == "delivered", timeout_s=100)
    grown = peak_bytes(toril.pid) - before
    assert seen == {job_id: hashlib.sha256(body).hexdigest()}
    assert grown < 35 * MB, f"grew by {grown / MB:.0f} MB while it delivered 50 MB"
    # The answer is longer than the threshold, so it went the same way, and comes back.
    assert len(s3.keys(bucket)) == 2
    assert toril.client.get(f"/jobs/{job_id}/response").content == b"y" * 500_000
