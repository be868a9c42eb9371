"""Where clients find this application: mounted, below a path of ours, behind a proxy."""

import pytest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from tests.unit.web.asgi import Body, application, ask, scope
from toril.web.access_control import Access
from toril.web.application import Application
from toril.web.mounting import Mounting, go_below, route_path, url_path
from toril.web.openapi.docs import DocsRoutes
from toril.web.openapi.document import Served
from toril.web.request import Request
from toril.web.responses import BytesResponse
from toril.web.routing import Route


async def where(request: Request) -> Response:
    """Say where the route beside this one is."""
    return BytesResponse(headers=((b"location", url_path(request.scope, b"/jobs/7")),))


def gateway() -> Application:
    docs = DocsRoutes("1.2.3", lambda: Served(docs.routes()))
    routes = [Route("/where/{queue}", where, access=Access.OPEN), *docs.routes()]
    return application(routes)


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


async def test_a_mount_and_a_path_of_ours_are_both_cut_off_and_both_given_back() -> None:
    paths: list[bytes] = []

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        paths.extend((route_path(scope), url_path(scope, b"/__jobs/7")))
        go_below(scope, b"/own", b"/where/x")
        paths.extend((route_path(scope), url_path(scope, b"/jobs/7")))

    given = asked("/toril/own/where/x", "/toril")
    await Mounting(inside)(given, Body(), nowhere)
    assert paths == [b"/own/where/x", b"/toril/__jobs/7", b"/where/x", b"/toril/own/jobs/7"]
    assert (given["path"], given["root_path"]) == ("/toril/own/where/x", "/toril")  # as Starlette leaves them, too


async def nowhere(message: Message) -> None:
    raise AssertionError("nothing is sent")
