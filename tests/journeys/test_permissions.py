"""toril under a Redis user with the permissions that the docs name, and under one with fewer."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.endpoint import Endpoint
from tests.support.gateway import job
from tests.support.redis62 import redis_6_2
from tests.support.sockets import socket_to
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

DOCUMENTED = re.search(
    r"^ACL SETUSER toril on >secret (.+)$",
    (Path(__file__).parents[2] / "docs" / "how-to" / "redis-acl.md").read_text(),
    re.MULTILINE,
)
assert DOCUMENTED is not None
RULES = DOCUMENTED[1].split()

StartUnder = Callable[[list[str]], TorilProcess]


@pytest.fixture(params=["Valkey 9", "Redis 6.2"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ValkeyProcess]:
    binary = redis_6_2() if request.param == "Redis 6.2" else None
    with ValkeyProcess(tmp_path / "store", binary=binary) as server:
        yield server


@pytest.fixture
def start_under(store: ValkeyProcess, start_toril: StartToril, endpoint: Endpoint, tmp_path: Path) -> StartUnder:
    """Starts a toril with all that needs Redis, as a user with these rules."""

    def start(rules: list[str]) -> TorilProcess:
        store.client().execute_command("ACL", "SETUSER", "toril", "on", ">secret", *rules)
        config = tmp_path / "toril.yaml"
        target = {"url": endpoint.url, "rate_limit": {"max": 1000, "per": "1s"}}
        config.write_text(yaml.safe_dump({"targets": {"billing": target}, "ledger": {"url": "none"}}))
        url = f"redis://toril:secret@127.0.0.1:{store.port}"
        return start_toril(store, wait_for="/health", env={"REDIS_URL": url}, args=["--config", str(config)])

    return start


def test_the_documented_permissions_are_enough(start_under: StartUnder, endpoint: Endpoint) -> None:
    toril = start_under(RULES)
    eventually(lambda: toril.status("/ready") == 200, what="toril to be ready")
    http, gateway = toril.client, toril.gateway
    gateway.register("orders", endpoint.url)
    gateway.finished("orders", gateway.add_one("orders"))
    gateway.finished("orders", gateway.add_one("orders", delay=100))
    assert "orders" in [one["name"] for one in http.get("/queues").json()["queues"]]
    assert http.get("/queues/orders").json()["workers"] != []
    assert http.put("/queues/mails/schedulers/often", json={"every": 3_600_000}).status_code == 200
    gateway.add("mails", job())
    [leased] = http.post("/queues/mails/lease", json={"lock_ms": 60_000}).json()["jobs"]
    path = f"/queues/mails/jobs/{leased['job']['id']}"
    lock = {"Authorization": f"Bearer {leased['token']}"}
    assert http.post(f"{path}/complete", json={"returnvalue": 1}, headers=lock).status_code == 204
    with socket_to(toril.url, "/ws/queues/pictures/process/1") as worker:
        job_id = gateway.add_one("pictures")
        worker.finish(worker.receive())
        gateway.finished("pictures", job_id)
    posted = http.post("/enqueue", json={"target": "billing", "body": 1}, headers={"Idempotency-Key": "k"}).json()
    assert http.get(f"/jobs/{posted['job_id']}?wait=20").json()["status"] == "delivered"
    assert http.get("/targets/billing").json()["breaker"]["state"] == "closed"
    for action in ("pause", "resume"):
        assert http.post(f"/queues/orders/{action}").status_code == 204
        assert http.post(f"/workers/orders/{action}").status_code == 204
        assert http.post(f"/targets/billing/{action}").status_code == 204
    assert http.post("/queues/orders/obliterate", json={"force": True}).status_code == 200
    assert http.delete("/workers/orders").status_code == 200
    assert "redis.permission_missing" not in toril.log()


def test_a_missing_permission_is_named_once_at_error(start_under: StartUnder) -> None:
    toril = start_under([rule for rule in RULES if rule != "~toril:*"])
    eventually(lambda: '"redis.permission_missing", "level": "error"' in toril.log(), what="the log to say so")
    answer = toril.client.get("/ready")
    assert answer.status_code == 503
    assert "NOPERM" in answer.json()["reasons"][0]
    for _ in range(30):
        toril.client.get("/ready")
    lines = [line for line in toril.log().splitlines() if "redis.permission_missing" in line]
    # One line for each of the few connections that there are.
    assert 1 <= len(lines) <= 4
