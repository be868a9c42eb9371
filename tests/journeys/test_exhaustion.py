"""A toril that has no descriptors left: what is accepted waits, and spends no attempt.

The limit of the running process is lowered to what it has open, and raised again. Linux only: that is how.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint
from tests.support.proxied import READY, Proxied
from tests.support.toril import TorilProcess
from tests.support.valkey import StartValkey, ValkeyProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="lowers another process's limit by prlimit(2)")

RESTS_S = 2.5
"""Longer than a slot rests: whatever is tried again has been."""


@contextmanager
def without_descriptors(toril: TorilProcess) -> Iterator[None]:
    """The process can open nothing for the length of a block."""
    before = resource.prlimit(toril.pid, resource.RLIMIT_NOFILE)
    opened = {int(name) for name in os.listdir(f"/proc/{toril.pid}/fd")}
    free = next(number for number in range(len(opened) + 1) if number not in opened)
    resource.prlimit(toril.pid, resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(toril.pid, resource.RLIMIT_NOFILE, before)


def complaints(toril: TorilProcess) -> list[dict[str, Any]]:
    """What the log says of it."""
    lines = [json.loads(line) for line in toril.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "process.exhausted"]


def test_pushed_jobs_and_deliveries_spend_no_attempt(
    start_toril: Callable[..., TorilProcess],
    start_endpoint: Callable[..., Endpoint],
    start_valkey: StartValkey,
    tmp_path: Path,
    queue: str,
) -> None:
    worker, target = start_endpoint(), start_endpoint()
    file = configuration(
        tmp_path / "toril.yaml",
        {
            "pay": {
                "url": target.at("/"),
                "retry": {"max_attempts": 1},
                "breaker": {"failures": 1, "window": "10m", "open_for": "1h"},
            }
        },
        ledger={"url": f"sqlite:///{tmp_path}/ledger.sqlite3"},
    )
    # A separate Valkey: on a shared one, another toril would work for the registered worker, too.
    toril = start_toril(start_valkey(), args=["--config", str(file)])
    door = Door(toril.gateway)
    toril.gateway.register(queue, worker.url)
    began = time.monotonic()
    with without_descriptors(toril):
        job_id = toril.gateway.add_one(queue)
        delivery_id = door.enqueue("pay")
        # Asked over HTTP all the time: a connection that was closed as idle could not be replaced.
        eventually(lambda: door.job(delivery_id) and complaints(toril), timeout_s=30)
        assert {line["code"] for line in complaints(toril)} == {"EMFILE"}
        eventually(lambda: door.job(delivery_id) and time.monotonic() > began + RESTS_S)
        found = toril.gateway.job(queue, job_id)
        assert (found["attemptsMade"], found.get("failedReason")) == (0, None)
        assert 1 < found["attemptsStarted"] < 20, "it is tried again, without spinning"
        delivery = door.job(delivery_id)
        assert (delivery["status"] in {"queued", "dispatching"}, delivery["attempts_made"]) == (True, 0)
        assert len(complaints(toril)) <= 2
    assert toril.gateway.finished(queue, job_id)["attemptsMade"] == 1
    delivered = eventually(
        lambda: found if (found := door.job(delivery_id))["status"] == "delivered" else None, timeout_s=20
    )
    assert delivered["attempts_made"] == 1
    assert toril.client.get("/targets/pay").json()["breaker"]["state"] == "closed"
    assert (len(worker.calls), len(target.calls)) == (1, 1)


def test_proxied_requests_spend_no_attempt(
    start_toril: Callable[..., TorilProcess],
    start_endpoint: Callable[..., Endpoint],
    valkey: ValkeyProcess,
    tmp_path: Path,
) -> None:
    backend = start_endpoint()
    upstreams = [{"prefix": "/", "url": backend.at("")}]
    config = Proxied(tmp_path, upstreams, queue=f"none-left-{os.getpid()}")
    toril = start_toril(valkey, READY, **config.arguments)
    with httpx.Client(base_url=toril.url, trust_env=False, timeout=20) as client:
        assert client.get(READY).status_code == 200  # the connection that the rest goes over
        with without_descriptors(toril):
            job_id = client.post("/pay", content=b"once").json()["jobId"]
            eventually(lambda: client.get(READY) and complaints(toril), timeout_s=30)
            assert client.get(f"/__jobs/{job_id}").json()["status"] in {"queued", "running"}
        eventually(lambda: client.get(f"/__jobs/{job_id}").json()["status"] == "completed", timeout_s=30)
    assert [call.body for call in backend.calls] == [b"once"]
