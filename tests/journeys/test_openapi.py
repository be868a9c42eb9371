"""A real server against its own document: schemathesis calls every route with what the document allows, and with bodies
that it does not. Nothing may end in a 5xx, and every answer must be one that the document has. The server has an
upstream, so that the jobs API and submissions are tried too, and toril's own API lies below a prefix.

Bounded by examples; derandomised in CI like all property tests (`tests/conftest.py` prints the seed elsewhere). Streams
and sockets are left out: they do not end, and have suites of their own.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.endpoint import hang
from tests.support.gateway import TOKEN, Gateway, job
from tests.support.ports import free_port
from tests.support.proxq import Backend
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.unit.proxy.test_description import document_of
from toril.config.settings import Settings
from toril.delivery.rules.target import TargetSpec
from toril.proxy.rules.upstream import ProxyPolicy, Upstream

EXAMPLES = 4
KNOWN = "known"
LOCKED = "locked"
TARGET = "billing"
CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


DESCRIBED = document_of(
    Settings(
        targets=(TargetSpec(name=TARGET, url="http://target.example"),),
        proxy=ProxyPolicy(upstreams=(Upstream(prefix="/api", url="http://upstream.example"),), api_path="/__toril"),
    )
)


def operations() -> list[Any]:
    """What can be called and answers whole. A proxied job's status is a stream only for those who ask for one."""
    found = [result.ok() for result in schemathesis.openapi.from_dict(DESCRIBED).get_all_operations()]
    return [
        one
        for one in found
        if "x-websocket" not in one.definition.raw
        and ("text/event-stream" not in str(one.definition.raw) or one.path == "/__jobs/{id}")
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> Iterator[TorilProcess]:
    """A toril with its own stores, since the tests change everything in them.

    It calls only its upstream, whichever workers are registered, and its target does not exist.
    """
    folder = tmp_path_factory.mktemp("openapi")
    env = {"TORIL_EGRESS_DENY": "0.0.0.0/0,::/0"}
    config = folder / "toril.yaml"
    target, ledger = {"url": f"http://127.0.0.1:{free_port()}/"}, f"sqlite:///{folder}/ledger.sqlite3"
    upstreams = [{"prefix": "/api", "url": backend.url}]
    config.write_text(yaml.safe_dump({"targets": {TARGET: target}, "ledger": {"url": ledger}, "upstreams": upstreams}))
    with ValkeyProcess(folder / "valkey") as valkey:
        toril = TorilProcess(valkey.url, folder / "toril.log", env=env, args=["--config", str(config)])
        try:
            yield toril.start("/__toril/ready")
        finally:
            toril.close()
        assert toril.complaints() == []
        assert "request.crashed" not in toril.log()


@pytest.fixture(scope="module")
def api(server: TorilProcess) -> Iterator[Gateway]:
    """A caller of toril's own API."""
    caller = Gateway(f"{server.url}/__toril")
    yield caller
    caller.close()


@pytest.fixture
def lock(api: Gateway) -> str:
    """The lock token of the job `locked`, which is active; beside it are jobs in other states."""
    for job_id in ("waits", "late", LOCKED):
        api.http.delete(f"/queues/{KNOWN}/jobs/{job_id}")
    api.http.post(f"/queues/{KNOWN}/resume")
    api.http.delete(f"/queues/{KNOWN}/concurrency")
    api.http.delete(f"/queues/{KNOWN}/rate-limit")
    api.http.delete(f"/queues/{KNOWN}/rate-limit/hold")
    api.add(KNOWN, job(jobId=LOCKED, lifo=True))
    leased = api.http.post(f"/queues/{KNOWN}/lease", json={"count": 100, "lock_ms": 3_600_000}).json()["jobs"]
    api.add(KNOWN, job(jobId="waits"), job(jobId="late", delay=10**9))
    return next((one["token"] for one in leased if one["job"]["id"] == LOCKED), "gone")


@pytest.fixture
def proxied(server: TorilProcess, backend: Backend) -> Iterator[list[str]]:
    """The ids of proxied jobs: one that has completed, and one that is with the upstream."""
    caller = server.client
    done = caller.post("/api/done", content=b"x").json()["jobId"]
    assert caller.get(f"/__jobs/{done}?wait=20").json()["status"] == "completed"
    running = caller.get(f"/api{backend.path(hang())}").json()["jobId"]
    yield [done, running]
    caller.delete(f"/__jobs/{running}")


def test_the_tested_document_is_the_served_one(api: Gateway) -> None:
    served = api.http.get("/openapi.json").json()
    assert served | {"info": None} == DESCRIBED | {"info": None}


CALLS = [
    (one, mode)
    for one in operations()
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or (one.body and "upstreams" not in one.tags)
]


@pytest.mark.parametrize(
    ("operation", "mode"), CALLS, ids=[f"{one.method.upper()} {one.path} {mode.value}" for one, mode in CALLS]
)
def test_answers_conform_to_the_openapi_document(
    operation: Any, mode: GenerationMode, server: TorilProcess, request: pytest.FixtureRequest
) -> None:
    known = {"target": [TARGET], "queue": [KNOWN], "id": [LOCKED, "waits", "late"]}
    token = TOKEN
    if "proxied jobs" in operation.tags:
        known["id"] = request.getfixturevalue("proxied")
    elif "upstreams" not in operation.tags:
        lock = request.getfixturevalue("lock")
        token = lock if {"lockToken": []} in operation.definition.raw.get("security", []) else TOKEN

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def check(case: Any, data: st.DataObject) -> None:
        for name in case.path_parameters or {}:
            if name in known and data.draw(st.booleans(), label=f"a {name} that is there"):
                case.path_parameters[name] = data.draw(st.sampled_from(known[name]))
        # Long polls would be just that.
        if isinstance(case.query, dict) and "wait" in case.query:
            case.query["wait"] = "0"
        if isinstance(case.body, dict) and "wait_ms" in case.body:
            case.body["wait_ms"] = 0
        if isinstance(case.body, dict) and "target" in case.body and data.draw(st.booleans(), label="a known target"):
            case.body["target"] = TARGET
        answer = case.call(base_url=server.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        case.validate_response(answer, checks=CHECKED)

    check()
