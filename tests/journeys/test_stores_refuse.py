"""Redis or the ledger is gone, silent, full or read-only: each route of the document says so, and none answers 500."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml

from tests.support.endpoint import Answer, Call, Endpoint, reply_json
from tests.support.gateway import TOKEN, job
from tests.support.minimal import minimal
from tests.support.postgres import PostgresProcess
from tests.support.redis62 import redis_6_2
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import StartValkey, ValkeyProcess
from tests.support.waiting import eventually

QUEUE, TARGET = "orders", "billing"
QUICK = {"TORIL_REDIS_COMMAND_TIMEOUT": "300ms"}
BODIES = {
    "PUT /queues/{queue}/schedulers/{id}": {"pattern": "0 * * * *"},
    "POST /targets/{target}/dead-letters/replay": {"all": True},
}
REMOVING = ("DELETE", "drain", "obliterate", "clean", "release")

Break = Callable[[ValkeyProcess], None]


def full(store: ValkeyProcess) -> None:
    store.client().config_set("maxmemory", 1)


def read_only(store: ValkeyProcess) -> None:
    store.client().execute_command("REPLICAOF", "127.0.0.1", "1")


def mend(store: ValkeyProcess) -> None:
    """Undo whatever was done to it."""
    store.resume()
    try:
        client = store.client()
        client.config_set("maxmemory", 0)
        client.execute_command("REPLICAOF", "NO", "ONE")
    except redis.ConnectionError:
        store.start()


FAULTS: dict[str, Break] = {
    "killed": ValkeyProcess.kill,
    "hung": ValkeyProcess.pause,
    "full": full,
    "read-only": read_only,
}


@pytest.fixture(params=["Valkey 9", "Redis 6.2"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ValkeyProcess]:
    """A server of each kind that users run; the oldest wraps what a script ran into."""
    binary = redis_6_2() if request.param == "Redis 6.2" else None
    with ValkeyProcess(tmp_path / "store", binary=binary) as server:
        yield server


class Calls:
    """Every route of the document, called with the smallest valid request."""

    def __init__(self, toril: TorilProcess) -> None:
        self._toril = toril
        self._document = toril.client.get("/openapi.json").json()
        queued = toril.gateway.add_one(QUEUE, jobId="waits")
        toril.gateway.add(QUEUE, job(jobId="leased", lifo=True))
        [leased] = toril.client.post(f"/queues/{QUEUE}/lease", json={"lock_ms": 600_000}).json()["jobs"]
        self._lock = leased["token"]
        posted = toril.client.post("/enqueue", json={"target": TARGET, "body": 1})
        self.delivery = posted.json()["job_id"] if posted.status_code == 202 else "none"
        self._named = {
            "queue": QUEUE,
            "queueName": QUEUE,
            "target": TARGET,
            "url": "http://127.0.0.1:20999/",
            "method": "POST",
            "pattern": "0 * * * *",
            "jobs": [{"id": "leased", "token": self._lock, "action": "complete"}],
            "wait_ms": 0,
            "job_ids": [self.delivery],
        }
        self._ids = {"id": queued, "queue": QUEUE, "target": TARGET, "job": self.delivery, "key": "none"}

    def answers(self) -> dict[str, httpx.Response]:
        """What each route answers; first those that remove nothing, all at once, then the others."""
        calls = [
            (method, path, operation)
            for path, methods in self._document["paths"].items()
            for method, operation in methods.items()
            if method in {"get", "post", "put", "delete"}
            and "x-websocket" not in operation
            and "text/event-stream" not in str(operation)
        ]
        assert len(calls) > 60
        named = {f"{method.upper()} {path}": (method, path, operation) for method, path, operation in calls}
        removing = [call for call in named if any(word in call for word in REMOVING)]
        answers: dict[str, httpx.Response] = {}
        with ThreadPoolExecutor(30) as pool:
            for wave in ([call for call in named if call not in removing], removing):
                answers |= dict(zip(wave, pool.map(lambda call: self._call(*named[call]), wave), strict=True))
        return answers

    def _call(self, method: str, path: str, operation: dict[str, Any]) -> httpx.Response:
        body = BODIES.get(f"{method.upper()} {path}")
        locked = {"lockToken": []} in operation.get("security", [])
        for name, value in (self._ids | ({"id": "leased"} if locked else {})).items():
            path = path.replace(f"{{{name}}}", value)
        content = operation.get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        if body is None and schema is not None:
            body = minimal(schema, self._document, self._named)
        query = {
            one["name"]: minimal(
                one["schema"], self._document, {"queues": QUEUE, "priorities": "1", "where": "id = 1"}, one["name"]
            )
            for one in operation.get("parameters", [])
            if one["in"] == "query" and one.get("required")
        }
        token = self._lock if locked else TOKEN
        return httpx.request(
            method,
            self._toril.url + path,
            json=body,
            params=query,
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
            trust_env=False,
        )


def told(answers: dict[str, httpx.Response]) -> dict[str, str]:
    """The answers that are faults of toril's: 5xx, but for those that name what is away."""
    return {
        call: f"{answer.status_code} {answer.text[:200]}"
        for call, answer in answers.items()
        if answer.status_code >= 500 and answer.status_code != 503
    }


@pytest.fixture
def config(tmp_path: Path, endpoint: Endpoint) -> Callable[[str], list[str]]:
    """Writes a configuration with a target, and a ledger at this URL; the arguments that name it."""

    def write(ledger: str) -> list[str]:
        path = tmp_path / "toril.yaml"
        path.write_text(yaml.safe_dump({"targets": {TARGET: {"url": endpoint.url}}, "ledger": {"url": ledger}}))
        return ["--config", str(path)]

    return write


@pytest.mark.parametrize(
    ("store", "fault"),
    [*(("Valkey 9", fault) for fault in FAULTS), ("Redis 6.2", "full"), ("Redis 6.2", "read-only")],
    indirect=["store"],
)
def test_no_route_answers_500_while_redis_cannot_serve(
    store: ValkeyProcess, start_toril: StartToril, config: Callable[[str], list[str]], tmp_path: Path, fault: str
) -> None:
    toril = start_toril(store, args=config(f"sqlite:///{tmp_path}/ledger.sqlite3"), env=QUICK)
    toril.gateway.register("pushed", "http://127.0.0.1:20999/")
    calls = Calls(toril)
    FAULTS[fault](store)
    try:
        answers = calls.answers()
        assert told(answers) == {}
        refused = [call for call, answer in answers.items() if answer.status_code in {400, 403, 405, 415}]
        assert refused == [], "the others are what the stores say"
        assert answers["GET /ready"].status_code == 503
        add, lease = answers["POST /queues/{queue}/jobs"], answers["POST /queues/{queue}/lease"]
        assert [(one.status_code, "retry-after" in one.headers) for one in (add, lease)] == [(503, True)] * 2
        if fault in {"full", "read-only"}:
            eventually(lambda: toril.reasons()[0].startswith("Redis takes no writes"), what="the cause at /ready")
    finally:
        mend(store)
    eventually(lambda: toril.status("/ready") == 200, timeout_s=30, what="toril to be ready again")
    assert toril.client.post("/queues/after/jobs", json=[job()]).status_code == 200
    assert "request.crashed" not in toril.log()


def stopped(ledger: PostgresProcess) -> AbstractContextManager[None]:
    ledger.stop(immediately=True)
    return nullcontext()


def refusing_writes(ledger: PostgresProcess) -> AbstractContextManager[None]:
    ledger.psql("ALTER SYSTEM SET default_transaction_read_only = on")
    ledger.psql("SELECT pg_reload_conf()")
    return nullcontext()


def closed(ledger: PostgresProcess) -> AbstractContextManager[None]:
    ledger.psql("ALTER DATABASE deliveries WITH ALLOW_CONNECTIONS false")
    ledger.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'deliveries'")
    return nullcontext()


@pytest.mark.parametrize("fault", [stopped, PostgresProcess.frozen, refusing_writes, closed])
def test_no_route_answers_500_while_the_ledger_cannot_serve(
    start_valkey: StartValkey,
    start_toril: StartToril,
    config: Callable[[str], list[str]],
    fault: Callable[[PostgresProcess], AbstractContextManager[None]],
) -> None:
    with PostgresProcess() as ledger:
        ledger.psql("CREATE DATABASE deliveries")
        toril = start_toril(start_valkey(), args=config(ledger.url("deliveries")), env=QUICK)
        calls = Calls(toril)
        with fault(ledger):
            # A write of a moment ago is trusted.
            eventually(lambda: toril.status("/ready") == 503, what="toril to notice")
            answers = calls.answers()
        assert told(answers) == {}
        assert answers["GET /ready"].status_code == 503
        assert answers["POST /enqueue"].status_code == 503
        assert "retry-after" in answers["POST /enqueue"].headers
        assert "request.crashed" not in toril.log()


def test_a_job_in_flight_while_redis_is_full_is_done_once(
    store: ValkeyProcess, start_toril: StartToril, start_endpoint: Callable[..., Endpoint]
) -> None:
    """Its verdict is kept, and written when there is room again."""
    endpoint = start_endpoint()
    toril = start_toril(store)
    gate = endpoint.gate()

    async def behaviour(_: Call) -> Answer:
        await gate.passed()
        return reply_json(1)

    endpoint.behaviour = behaviour
    toril.gateway.register(QUEUE, endpoint.url)
    job_id = toril.gateway.add_one(QUEUE)
    eventually(lambda: len(endpoint.calls) == 1, what="the job to be under way")
    full(store)
    gate.open()
    eventually(lambda: toril.status("/ready") == 503, what="toril not to be ready")
    mend(store)
    toril.gateway.finished(QUEUE, job_id)
    assert len(endpoint.calls) == 1
