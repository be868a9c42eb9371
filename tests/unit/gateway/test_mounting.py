"""Where clients find this application: mounted, below a path of ours, behind a proxy."""

import pytest
from starlette.types import Scope

from tests.unit.gateway.asgi import ask, scope
from toril.core.access import Right
from toril.gateway.admission import Admission
from toril.gateway.app import Gateway
from toril.gateway.auth import Tokens
from toril.gateway.docs import DocsRoutes
from toril.gateway.mounting import mounted, moved, url_path
from toril.gateway.openapi import Served
from toril.gateway.routing import Access, Answer, Request, Route
from toril.testing import FakeRates


async def where(request: Request) -> Answer:
    """Say where the route beside this one is."""
    return Answer(200, b"text/plain", b"", ((b"location", url_path(request.scope, b"/jobs/7")),))


def gateway() -> Gateway:
    docs = DocsRoutes("1.2.3", lambda: Served(docs.routes()))
    routes = [Route("GET", "/where/{queue}", Access.OPEN, where, Right.JOBS_READ), *docs.routes()]
    return Gateway(routes, Admission(Tokens(["t"]), FakeRates(lambda: 0.0)))


def asked(path: str, root: str = "", **headers: str) -> Scope:
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return scope("GET", path, headers=pairs) | {"root_path": root}


async def test_an_application_that_is_mounted_finds_its_routes_and_gives_urls_below_its_mount() -> None:
    for path in ("/toril/where/a%2Fb", "/where/a%2Fb"):  # servers differ in whether a path has the mount in it
        answer = await ask(gateway(), asked(path, "/toril"))
        assert (answer.status, answer.headers[b"location"]) == (200, b"/toril/jobs/7")


async def test_a_mount_is_cut_off_at_a_slash_only() -> None:
    assert (await ask(gateway(), asked("/torilla/where/x", "/toril"))).status == 404


@pytest.mark.parametrize(
    ("root", "forwarded", "expected"),
    [
        ("", "/gw", b"/gw/jobs/7"),
        ("/toril", "/gw", b"/gw/toril/jobs/7"),
        ("/gw", "/gw", b"/gw/jobs/7"),
        ("/gw/toril", "/gw", b"/gw/toril/jobs/7"),
        ("/gwen", "/gw", b"/gw/gwen/jobs/7"),
        ("/tö", "", b"/t%C3%B6/jobs/7"),
        ("/", "", b"/jobs/7"),
    ],
)
async def test_a_prefix_stands_before_the_mount_unless_the_mount_has_it(
    root: str, forwarded: str, expected: bytes
) -> None:
    answer = await ask(gateway(), asked("/where/x", root, x_forwarded_prefix=forwarded))
    assert answer.headers[b"location"] == expected


async def test_the_document_names_the_mount_and_is_the_same_for_those_who_come_without() -> None:
    app = gateway()
    below = (await ask(app, asked("/toril/openapi.json", "/toril"))).body
    assert below.startswith(b'{"servers":[{"url":"/toril"}],"openapi":')
    assert b'"servers"' not in (await ask(app, asked("/openapi.json"))).body


def test_a_mount_and_a_path_of_ours_are_both_cut_off_and_both_given_back() -> None:
    outer = mounted(asked("/toril/own/where/x", "/toril"))
    inner = moved(outer, b"/own", b"/where/x")
    assert (inner["raw_path"], inner["path"]) == (b"/where/x", "/where/x")
    assert mounted(inner) == inner
    assert url_path(inner, b"/jobs/7") == b"/toril/own/jobs/7"
    assert url_path(outer, b"/__jobs/7") == b"/toril/__jobs/7"
