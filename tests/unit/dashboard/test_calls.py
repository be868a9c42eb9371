"""Every call in the dashboard's modules is a route of the OpenAPI document, with its method."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.routing import Mount

from toril.asgi import create_app
from toril.config.settings import Settings
from toril.delivery.rules.target import TargetSpec
from toril.proxy.rules.upstream import ProxyPolicy, Upstream
from toril.web.openapi.document import Served, document
from toril.web.routing import Route

STATIC = Path(__file__).parents[3] / "src/toril/dashboard/static"
_CALL = re.compile(r"(?<![\w.])(useFetched|useFetchedAgain|get|address|act|send|doing|does)\(")
_BASE = re.compile(r"\bconst (?:base|route) = ([^;]*);")
_COMPARED = re.compile(r"[!=]== \"[^\"]*\"")
_PATH = re.compile(r"(?:[a-z-]+|\{\})(?:/(?:[a-z-]+|\{\}))*")
_LITERAL = re.compile(r"`((?:[^`$]|\$\{(?:[^{}]|\{[^{}]*\})*\}|\$)*)`|\"([^\"]*)\"")
_HOLE = re.compile(r"\$\{((?:[^{}]|\{[^{}]*\})*)\}")
_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}


class Call(NamedTuple):
    """A call, as it is written: `method` is empty where that is decided elsewhere."""

    method: str
    path: str


def arguments(text: str, start: int) -> list[str]:
    """The arguments of a call whose parenthesis opens just before `start`."""
    found, begun, depth, quote = [], start, 1, ""
    for at in range(start, len(text)):
        char = text[at]
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'`":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if not depth:
                return [*found, text[begun:at]]
        elif char == "," and depth == 1:
            found.append(text[begun:at])
            begun = at + 1
    return []


def literals(text: str) -> Iterator[str]:
    """The texts in an expression that may be paths, with `{}` for what is only known later; alternatives one by one."""
    for match in _LITERAL.finditer(text):
        yield from _filled(match[1] if match[1] is not None else match[2])


def _filled(path: str) -> Iterator[str]:
    hole = _HOLE.search(path)
    if hole is None:
        yield path
        return
    if hole[1] == "base":
        for rest in _filled(path[hole.end() :]):
            yield "BASE" + rest
        return
    choices = re.findall(r"[?:] \"([\w/-]+)\"", hole[1]) or ["{}"]
    for choice in choices:
        yield from _filled(path[: hole.start()] + choice + path[hole.end() :])


def calls(text: str) -> set[Call]:
    """What a module calls."""
    written = (found for statement in _BASE.findall(text) for found in literals(_COMPARED.sub("", statement)))
    bases = [found for found in written if _PATH.fullmatch(found)]
    found = {Call("", base) for base in bases}
    for match in _CALL.finditer(text):
        given = arguments(text, match.end())
        method = given[0].strip().strip('"') if given else ""
        if method in _METHODS:
            given = given[1:]
        else:
            method = "GET" if match[1] in ("useFetched", "useFetchedAgain", "get") else ""
        for path in literals(given[0]) if given else ():
            if path.startswith("BASE"):
                found |= {Call(method, base + path[4:]) for base in bases}
            elif _PATH.fullmatch(path) and path.strip("{}/"):
                found.add(Call(method, path))
    return found


@cache
def documented() -> Mapping[str, Mapping[str, Any]]:
    """The paths of a toril with all three doors, and their operations by method."""
    targets = (TargetSpec(name="billing", url="http://b"),)
    proxy = ProxyPolicy(upstreams=(Upstream(prefix="/shop", url="http://s"),), api_path="/api")
    app = create_app(Settings(targets=targets, proxy=proxy))
    mount = next(route for route in app.routes if isinstance(route, Mount))
    plain = [route for route in mount.routes if isinstance(route, Route)]
    paths: Mapping[str, Mapping[str, Any]] = document("1.2.3", Served(plain, ()))["paths"]
    return paths


def is_documented(call: Call) -> bool:
    wanted = ["", *call.path.split("/")]
    for path, methods in documented().items():
        parts = path.split("/")
        same = len(parts) == len(wanted) and all(
            part == want or part.startswith("{") or want == "{}" for part, want in zip(parts, wanted, strict=True)
        )
        if same and (not call.method or call.method.lower() in methods):
            return True
    return False


MODULES = [file for folder in (".", "lib", "parts", "pages") for file in sorted((STATIC / folder).glob("*.js"))]


@pytest.mark.parametrize("module", MODULES, ids=lambda file: file.name)
def test_every_call_of_a_module_is_a_documented_route(module: Path) -> None:
    assert sorted(call for call in calls(module.read_text()) if not is_documented(call)) == []


def test_the_calls_are_found() -> None:
    """Guards the test above against finding nothing."""
    found = {call for module in MODULES for call in calls(module.read_text())}
    assert len(found) > 55
    assert Call("POST", "queues/{}/bulk") in found
    assert Call("PUT", "queues/{}/jobs/{}/priority") in found
    assert {Call("POST", "queues/{}/pause"), Call("POST", "queues/{}/resume")} <= found
    assert Call("GET", "proxied/{}") in found


@pytest.mark.parametrize(
    "text",
    [
        'useFetched("queues/nothing/of/the/kind")',
        'act("PATCH", `queues/${path(name)}/pause`)',
        'const base = `workers/${path(queue)}`; act("POST", `${base}/${on ? "resume" : "stop"}`)',
    ],
)
def test_a_call_of_no_route_is_noticed(text: str) -> None:
    assert [call for call in calls(text) if not is_documented(call)]
