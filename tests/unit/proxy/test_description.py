"""The document of an instance with upstreams, against the tables of its door: nothing is missing, no path is wrong."""

import asyncio
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from toril.config.settings import Settings
from toril.core.http.signing import read_secret
from toril.delivery.ledger.policy import LedgerPolicy
from toril.delivery.rules.target import TargetSpec
from toril.http_client.egress import Egress, EgressPolicy
from toril.instance import Instance
from toril.proxy.jobs import ProxyJobs
from toril.proxy.proxied_requests import TIMEOUT, ProxiedRequests
from toril.proxy.routes import OPS, ProxyRouter, UpstreamServices
from toril.proxy.rules.callback import HEADER as CALLBACK
from toril.proxy.rules.upstream import CallbackPolicy, ProxyPolicy, Upstream, raw_path
from toril.proxy.settings import OWN_SEGMENTS
from toril.web.idempotency_key import KEY
from toril.web.mounting import route_path
from toril.web.openapi.document import document
from toril.web.request_metrics import METHODS
from toril.web.routing import Route, SocketRoute
from toril.web.sourced import ERRORS

SECRET = read_secret("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
BOTH = ProxyPolicy(
    upstreams=(
        Upstream(prefix="/api", url="http://inside.example/base"),
        Upstream(prefix="/away", url="http://inside.example", direct_mode="redirect"),
    ),
    api_path="/__toril",
)
ALONE = ProxyPolicy(upstreams=(Upstream(prefix="/", url="http://inside.example"),), jobs_path="/my/jobs")
OWNED = ProxyPolicy(
    upstreams=(Upstream(prefix="/a-b", url="http://a"), Upstream(prefix="/a_b/ü{x}", url="http://b")),
    jobs_path="/jöbs",
    api_path="/own/api",
    owner_only=True,
    callback=CallbackPolicy(secrets=(SECRET,)),
)
AT_ROOT = ProxyPolicy(upstreams=(Upstream(prefix="/api", url="http://inside.example"),), api_path="/")
POLICIES = pytest.mark.parametrize(
    "policy", [BOTH, ALONE, OWNED, AT_ROOT], ids=["both", "alone", "owned", "at the root"]
)


def made(settings: Settings) -> Instance:
    """An instance that does not run."""

    async def make() -> Instance:
        async with asyncio.TaskGroup() as tasks:
            return Instance(settings, tasks)

    return asyncio.run(make())


def document_of(settings: Settings) -> dict[str, Any]:
    """The document of an instance with these settings."""
    return json.loads(msgspec.json.encode(document("1.2.3", made(settings).served())))


@cache
def instance(policy: ProxyPolicy) -> Instance:
    return made(Settings(proxy=policy))


def router(policy: ProxyPolicy) -> ProxyRouter:
    found = instance(policy).router
    assert isinstance(found, ProxyRouter)
    return found


@cache
def described(policy: ProxyPolicy) -> dict[str, Any]:
    return document_of(Settings(proxy=policy))


def operations(policy: ProxyPolicy) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described(policy)["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def answers(policy: ProxyPolicy, operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    shared = described(policy)["components"]["responses"]
    return {
        status: shared[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
        for status, answer in operation["responses"].items()
    }


@POLICIES
def test_every_route_of_the_proxy_is_described_and_nothing_else(policy: ProxyPolicy) -> None:
    served = {(route.method, route.path) for route in router(policy).jobs.routes}
    served |= {(method, route.path) for route in router(policy).upstreams for method in METHODS}
    under = "/__toril" if policy.api_path is None else policy.api_path.rstrip("/")
    api = router(policy).api.routes
    assert policy.api_path is not None or {route.path for route in api} == OPS
    served |= {(route.method, under + route.path) for route in api if isinstance(route, (Route, SocketRoute))}
    assert {(method, path) for method, path, _ in operations(policy)} == served


@POLICIES
def test_the_jobs_api_takes_the_described_requests(policy: ProxyPolicy) -> None:
    said = {(method, path) for method, path, _ in operations(policy)}
    jobs = router(policy).jobs.routes[0].path.removesuffix("/{id}")
    for method in (*METHODS, "TRACE", "PURGE"):
        for below in ("", "/", "/{id}", "/{id}/", "/{id}/content", "/{id}/other", "/{id}/content/x"):
            taken = router(policy).jobs.route(method, below.encode()) is not None
            assert taken == ((method, jobs + below) in said), f"{method} {below}"


class Ways:
    """Everything around a router; remembers where a request went. There is no job."""

    def __init__(self) -> None:
        self.went: list[tuple[str, Any]] = []

    async def api(self, scope: Any, receive: Any, send: Any) -> None:
        self.went.append(("api", route_path(scope)))

    async def find(self, job_id: str) -> None:
        self.went.append(("jobs", job_id))

    def begin(self, upstream: Upstream) -> tuple[str, str]:
        return "id", upstream.prefix

    async def accept(self, submission: Any, job_id: str) -> str:
        self.went.append(("upstream", (submission.method, submission.target)))
        return job_id


@POLICIES
async def test_every_path_of_the_document_leads_where_it_says(policy: ProxyPolicy) -> None:
    under = "/__toril" if policy.api_path is None else policy.api_path.rstrip("/")
    for method, path, operation in operations(policy):
        ways: Any = Ways()
        requests = ProxiedRequests(policy, Egress(EgressPolicy()))
        jobs = ProxyJobs(ways, ways, ways, path=raw_path(policy.jobs_path).decode(), owner_only=False)
        asked = ProxyRouter(policy, UpstreamServices(jobs, ways, requests, ways, ways), ways.api)
        raw = re.sub(r"\{\w+\}", "x%2Fy", path).encode()
        scope = {
            "type": "http", "method": method, "raw_path": raw, "query_string": b"", "path": "", "headers": [],
            "client": None, "scheme": "http",
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        async def send(_: Any) -> None:
            """It is not read."""

        await asked(scope, receive, send)
        [(way, where)] = ways.went
        match operation["tags"]:
            case ["upstreams"]:
                assert (way, where) == ("upstream", (method, b"/x%2Fy")), path
            case ["proxied jobs"]:
                assert (way, where) == ("jobs", "x%2Fy"), path
                assert scope["route"].path == path
            case _:
                assert (way, under + where.decode().replace("x%2Fy", "{}")) == ("api", re.sub(r"\{\w+\}", "{}", path))


@POLICIES
def test_the_document_is_valid_openapi_3_1(policy: ProxyPolicy) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(described(policy)).iter_errors()] == []


@POLICIES
def test_operation_ids_are_unique(policy: ProxyPolicy) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(policy)]
    assert sorted(set(ids)) == sorted(ids)


def test_names_of_the_api_are_the_same_wherever_it_lies() -> None:
    names = {operation["operationId"] for _, _, operation in operations(OWNED) if "upstreams" not in operation["tags"]}
    assert {operation["operationId"] for _, _, operation in operations(BOTH)} >= names
    assert {"get_queues_queue_jobs", "get_proxied_job", "head_proxied_job_content"} <= names


@POLICIES
def test_the_urls_and_queue_names_of_upstreams_are_not_described(policy: ProxyPolicy) -> None:
    text = json.dumps(described(policy))
    for route in router(policy).upstreams:
        assert route.upstream.url not in text
        assert route.queue not in text


@POLICIES
def test_every_header_that_a_submission_is_read_for_is_described(policy: ProxyPolicy) -> None:
    read = {TIMEOUT, KEY, b"prefer"} | ({CALLBACK} if policy.callback.secrets else set())
    for method, path, operation in operations(policy):
        if operation["tags"] == ["upstreams"]:
            headers = [one["name"] for one in operation["parameters"] if one["in"] == "header"]
            assert {name.lower().encode() for name in headers} == read, f"{method} {path}"


@POLICIES
def test_every_error_of_the_proxys_own_is_described_with_its_code(policy: ProxyPolicy) -> None:
    said: dict[int, set[str]] = {}
    for _, _, operation in operations(policy):
        if operation["tags"] in (["upstreams"], ["proxied jobs"]):
            for status, answer in answers(policy, operation).items():
                if status.isdigit() and int(status) >= 400:
                    said.setdefault(int(status), set()).update(re.findall("`([A-Z_]+)`", answer["description"]))
                    assert answer["headers"]["X-Proxq-Source"]["required"]
    assert said == {status: {error.code} for status, error in ERRORS.items()}


def test_a_submission_is_answered_with_where_its_job_is() -> None:
    post = described(BOTH)["paths"]["/api/{path}"]["post"]
    accepted = post["responses"]["202"]
    assert set(accepted["headers"]) == {"X-Proxq-Source", "Location", "Retry-After"}
    shape = described(BOTH)["components"]["schemas"]["ProxyAccepted"]
    assert (accepted["content"]["application/json"]["schema"], shape["required"]) == (
        {"$ref": "#/components/schemas/ProxyAccepted"},
        ["jobId"],
    )
    assert "307" not in post["responses"]
    assert "Location" in described(BOTH)["paths"]["/away/{path}"]["post"]["responses"]["307"]["headers"]


def test_only_an_owner_is_asked_for_the_authorization_of_the_submission() -> None:
    for policy, ways in ((BOTH, []), (OWNED, [{"owner": []}, {}])):
        for _, _, operation in operations(policy):
            if operation["tags"] in (["upstreams"], ["proxied jobs"]):
                assert operation["security"] == ways


def test_where_the_api_is_off_its_document_has_what_is_left() -> None:
    paths = set(described(ALONE)["paths"])
    assert paths == {"/{path}", "/my/jobs/{id}", "/my/jobs/{id}/content", *(f"/__toril{path}" for path in OPS)}
    assert "**Sockets**" not in described(ALONE)["info"]["description"]


def test_no_upstream_may_have_a_path_of_an_api_at_the_root() -> None:
    target = TargetSpec(name="billing", url="http://inside.example")
    everything = Settings(proxy=BOTH, targets=(target,), ledger=LedgerPolicy(url="none"))
    api = made(everything).router.routes[0].app
    assert {route.path.split("/")[1] for route in api.routes} - {""} == OWN_SEGMENTS
