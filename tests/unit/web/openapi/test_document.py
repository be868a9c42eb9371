"""The document against the route table of a real instance: nothing that is served is missing, nothing else is said."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from toril.asgi import create_app
from toril.config.settings import Settings
from toril.core.access import Right
from toril.dashboard.routes import DashboardRoute
from toril.delivery.rules.target import TargetSpec
from toril.web.access_control import Access
from toril.web.openapi.document import Served, document
from toril.web.routing import Route, SocketRoute

HOW = """{missing} is served and not described. Give its Route an `about` (toril.web.openapi.description.About):

    Route("/things/{{queue}}", self.make, method="POST", right=Right.JOBS_ADD, own=True,
          about=About((Reply(shapes.Thing, "The thing as made"),), body=ThingSpec, errors=(ThingRefused,)))

`body` and a Reply's `kind` are types that msgspec can describe: the struct that the handler decodes, or a shape in
the door's `shapes`. Queries and headers are `parameters`. A SocketRoute takes a SocketAbout. Errors that come from the
access (401, 403, 429, 503 …) are added by themselves."""

VERBS = frozenset(
    [
        "Accept",
        "Add",
        "Append",
        "Cancel",
        "Change",
        "Check",
        "Complete",
        "Count",
        "Detach",
        "End",
        "Extend",
        "Fail",
        "Get",
        "Hold",
        "Lease",
        "List",
        "Move",
        "Pause",
        "Purge",
        "Receive",
        "Register",
        "Reload",
        "Remove",
        "Replace",
        "Replay",
        "Resume",
        "Retry",
        "Return",
        "Run",
        "Search",
        "Send",
        "Set",
        "Settle",
        "Show",
        "Store",
        "Stream",
        "Work",
    ]
)
"""The verbs that the summary of a route may begin with, as in an API reference: "List queues by name."."""


@cache
def table() -> tuple[Sequence[Route], Sequence[SocketRoute]]:
    app = create_app(Settings(targets=(TargetSpec(name="billing", url="http://b"),)))
    plain = [route for route in app.routes if isinstance(route, Route)]
    sockets = [route for route in app.routes if isinstance(route, SocketRoute)]
    others = [route for route in app.routes if not isinstance(route, (Route, SocketRoute))]
    assert [type(route) for route in others] == [DashboardRoute]
    return plain, sockets


@cache
def described() -> dict[str, Any]:
    return json.loads(msgspec.json.encode(document("1.2.3", Served(*table()))))


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def of(route: Route | SocketRoute) -> dict[str, Any]:
    return described()["paths"][route.path][route.method.lower()]


def resolved(thing: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in thing:
        found: Any = described()
        for part in thing["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        thing = found
    return thing


def test_every_route_is_described() -> None:
    routes, sockets = table()
    said = {(method, path) for method, path, _ in operations()}
    for route in [*routes, *sockets]:
        assert (route.method.lower(), route.path) in said, HOW.format(missing=f"{route.method} {route.path}")


def test_every_description_is_of_a_route() -> None:
    served = {(route.method.lower(), route.path) for half in table() for route in half}
    assert {(method, path) for method, path, _ in operations()} == served


def test_the_document_is_valid_openapi_3_1() -> None:
    assert described()["openapi"] == "3.1.0"
    assert [error.message for error in OpenAPIV31SpecValidator(described()).iter_errors()] == []


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert sorted(set(ids)) == sorted(ids)


def test_every_operation_has_a_summary_and_a_described_answer() -> None:
    for method, path, operation in operations():
        assert operation["summary"], f"{method} {path}: give its handler a docstring"
        for answer in operation["responses"].values():
            assert resolved(answer)["description"]


def test_every_kind_of_answer_of_a_route_is_in_the_document() -> None:
    kinds = 0
    for route in table()[0]:
        for reply in route.about.answers if route.about is not None else ():
            answer = resolved(of(route)["responses"][str(reply.status)])
            assert reply.kind is None or reply.content_type in answer["content"], f"{route.method} {route.path}"
            kinds += 1
    assert kinds > 100


def test_every_summary_begins_with_a_verb() -> None:
    for method, path, operation in operations():
        verb = operation["summary"].partition(" ")[0].rstrip(",")
        assert verb in VERBS, f"{method} {path}: {operation['summary']!r} does not begin with one of {sorted(VERBS)}"


def test_no_two_routes_share_a_summary() -> None:
    routes: defaultdict[str, list[str]] = defaultdict(list)
    for method, path, operation in operations():
        routes[operation["summary"]].append(f"{method} {path}")
    assert {summary: shared for summary, shared in routes.items() if len(shared) > 1} == {}


def test_every_parameter_in_a_path_is_declared() -> None:
    for method, path, operation in operations():
        named = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        assert {one["name"] for one in operation["parameters"] if one["in"] == "path"} == named, f"{method} {path}"


def test_every_route_says_which_token_with_which_right_it_needs() -> None:
    schemes = described()["components"]["securitySchemes"]
    for route in [*table()[0], *table()[1]]:
        ways = of(route)["security"]
        assert all(name in schemes for way in ways for name in way)
        if route.access is Access.OPEN:
            assert ways == []
        elif route.access is Access.LOCK:
            assert ways == [{"lockToken": []}]
        else:
            rights = [] if route.right is None else [route.right.value]
            assert {"apiToken": rights} in ways
            in_url = isinstance(route, SocketRoute) or route.token_in_url
            assert ({"tokenInUrl": rights} in ways) == in_url
            assert route.right is None or f"`{route.right}`" in of(route)["description"]


def test_every_route_says_how_it_refuses() -> None:
    for route in [*table()[0], *table()[1]]:
        answers = of(route)["responses"]
        expected = {Access.OPEN: set(), Access.LOCK: {"401", "503"}, Access.TOKEN: {"401", "403", "429", "503"}}
        assert expected[route.access] <= answers.keys(), route.path
        if isinstance(route, Route) and route.access is not Access.OPEN:
            assert "500" in answers
        if "requestBody" in of(route):
            assert {"400", "413"} <= answers.keys(), route.path


def test_our_routes_refuse_with_problem_details_and_the_originals_in_plain_text() -> None:
    for route in table()[0]:
        for status, answer in of(route)["responses"].items():
            found = resolved(answer)
            if int(status) < 400 or route.access is Access.OPEN:
                continue
            (kind,) = found["content"]
            if route.path == "/mcp" and kind == "application/json":
                continue  # errors of JSON-RPC
            assert kind == ("application/problem+json" if route.own else "text/plain"), f"{route.path} {status}"
            codes = found["headers"]["toril-code"]["schema"]["enum"]
            assert all(f"`{code}`" in found["description"] for code in codes)
            if status in {"429", "503"}:
                assert "Retry-After" in found["headers"]


def test_the_document_names_every_right_that_a_route_needs() -> None:
    needed = {route.right for half in table() for route in half if route.right is not None}
    document = described()
    text = json.dumps(document["paths"])
    assert {right for right in Right if f"`{right}`" in text} == needed
    # One opens no route: it is what else is shown.
    assert {right for right in Right if f"`{right}`" in document["info"]["description"]} == set(Right)
    assert needed == set(Right) - {Right.PAYLOADS_READ}


def test_patterns_are_those_of_ecma_262() -> None:
    patterns = {
        part["pattern"] for part in _parts(described()["components"]["schemas"]) if isinstance(part.get("pattern"), str)
    }
    assert patterns
    for pattern in patterns:
        assert "\\A" not in pattern
        assert "\\Z" not in pattern


def _parts(thing: Any) -> Iterator[dict[str, Any]]:
    if isinstance(thing, dict):
        yield thing
        thing = list(thing.values())
    if isinstance(thing, list):
        for part in thing:
            yield from _parts(part)


def test_a_body_schema_omits_fields_given_by_the_path() -> None:
    fail = described()["paths"]["/queues/{queue}/jobs/{id}/fail"]["post"]
    schema = fail["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"reason", "unrecoverable", "retry_in_ms"}
    assert schema["required"] == ["reason"]


@pytest.mark.parametrize("route", table()[1], ids=lambda route: route.path)
def test_a_socket_says_which_messages_go_over_it(route: SocketRoute) -> None:
    said = of(route)["x-websocket"]
    for direction in ("receives", "sends"):
        assert resolved(said[direction])["type"] == "object"
    assert "101" in of(route)["responses"]
