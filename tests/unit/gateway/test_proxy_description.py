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

from toril.bootstrap import Instance
from toril.core.destinations.callback import HEADER as CALLBACK
from toril.core.egress import Egress
from toril.core.policy import EgressPolicy, Settings
from toril.core.signing import read_secret
from toril.core.upstream import CallbackPolicy, ProxyPolicy, Upstream
from toril.gateway.idempotency_key import KEY
from toril.gateway.measured import METHODS
from toril.gateway.openapi import document
from toril.gateway.proxied_requests import TIMEOUT, ProxiedRequests
from toril.gateway.proxy import OPS, Doors, ProxyDoor
from toril.gateway.sourced import ERRORS

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
POLICIES = pytest.mark.parametrize("policy", [BOTH, ALONE, OWNED], ids=["both", "alone", "owned"])


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


def door(policy: ProxyPolicy) -> ProxyDoor:
    found = instance(policy).app
    assert isinstance(found, ProxyDoor)
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
    served = {(route.method, route.template) for route in door(policy).jobs.routes}
    served |= {(method, route.template) for route in door(policy).upstreams for method in METHODS}
    under = "/__toril" if policy.api_path is None else policy.api_path
    gateway = instance(policy).gateway
    served |= {
        (route.method, under + route.template)
        for route in [*gateway.table.routes, *gateway.socket_table.routes]
        if policy.api_path is not None or route.template in OPS
    }
    assert {(method, path) for method, path, _ in operations(policy)} == served


@POLICIES
def test_what_the_jobs_api_takes_is_what_is_described(policy: ProxyPolicy) -> None:
    said = {(method, path) for method, path, _ in operations(policy)}
    jobs = door(policy).jobs.routes[0].template.removesuffix("/{id}")
    for method in (*METHODS, "TRACE", "PURGE"):
        for below in ("", "/", "/{id}", "/{id}/", "/{id}/content", "/{id}/other", "/{id}/content/x"):
            taken = door(policy).jobs.route(method, below.encode()) is not None
            assert taken == ((method, jobs + below) in said), f"{method} {below}"


class Ways:
    """Everything around a door; remembers where a request went."""

    def __init__(self, policy: ProxyPolicy) -> None:
        self.went: list[tuple[str, Any]] = []
        self.route = door(policy).jobs.route

    async def api(self, scope: Any, receive: Any, send: Any) -> None:
        self.went.append(("api", scope["raw_path"]))

    async def serve(self, route: Any, job_id: bytes, scope: Any, receive: Any, send: Any) -> None:
        self.went.append(("jobs", route.template.partition("{")[2]))

    def begin(self, upstream: Upstream) -> tuple[str, str]:
        return "id", upstream.prefix

    async def accept(self, submission: Any, job_id: str) -> str:
        self.went.append(("upstream", (submission.method, submission.target)))
        return job_id


@POLICIES
async def test_every_path_of_the_document_leads_where_it_says(policy: ProxyPolicy) -> None:
    gateway = instance(policy).gateway
    under = "/__toril" if policy.api_path is None else policy.api_path
    for method, path, operation in operations(policy):
        ways: Any = Ways(policy)
        requests = ProxiedRequests(policy, Egress(EgressPolicy()))
        asked = ProxyDoor(policy, Doors(ways.api, ways, ways, requests, ways, ways))
        raw = re.sub(r"\{\w+\}", "x%2Fy", path).encode()
        scope = {
            "type": "http", "method": method, "raw_path": raw, "query_string": b"", "path": "", "headers": [],
            "client": None, "scheme": "http",
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        async def send(_: Any) -> None:
            """Nobody reads it."""

        await asked(scope, receive, send)
        [(way, where)] = ways.went
        match operation["tags"]:
            case ["upstreams"]:
                assert (way, where) == ("upstream", (method, b"/x%2Fy")), path
            case ["proxied jobs"]:
                assert (way, where) == ("jobs", path.partition("{")[2]), path
            case _:
                table = gateway.socket_table if "x-websocket" in operation else gateway.table
                route = table.match(method, where.split(b"/"))
                assert way == "api"
                assert route is not None
                assert under + route.template == path


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
def test_where_upstreams_are_and_what_their_queues_are_called_nobody_is_told(policy: ProxyPolicy) -> None:
    text = json.dumps(described(policy))
    for route in door(policy).upstreams:
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
