"""The dashboard's files: strict about what they may load, and right wherever toril is mounted."""

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Match
from starlette.types import Message

from tests.unit.web.asgi import scope
from toril.dashboard.routes import DashboardRoute

STATIC = Path(__file__).parents[3] / "src/toril/dashboard/static"


async def asked(
    path: str, method: str = "GET", inspector: str = "", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Ask a dashboard at /dashboard."""
    route, sent = DashboardRoute("/dashboard"), list[Message]()
    route.inspector = inspector
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    request = scope(method, path, headers=given)
    assert route.matches(request)[0] is Match.FULL

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("no body is read")

    await route.handle(request, receive, send)
    head: dict[str, Any] = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], head, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize(
    "path", ["/dashboard/", "/dashboard/queues", "/dashboard/queues/a%2Fb/jobs/1", "/dashboard/x.js"]
)
async def test_every_page_is_the_same_document(path: str) -> None:
    status, head, body = await asked(path)
    assert (status, head["content-type"]) == (200, "text/html;charset=utf-8")
    assert b'<base href="/dashboard/">' in body
    assert b'name="toril-api" content="/"' in body


async def test_the_document_names_the_inspector_where_there_is_one() -> None:
    assert b'name="toril-inspector" content=""' in (await asked("/dashboard/"))[2]
    found = (await asked("/dashboard/", inspector="/inspect"))[2]
    assert b'name="toril-inspector" content="/inspect"' in found
    found = (await asked("/dashboard/", inspector="/inspect", x_forwarded_prefix="/ops"))[2]
    assert b'name="toril-inspector" content="/ops/inspect"' in found


async def test_the_document_may_run_its_own_modules_and_its_import_map_only() -> None:
    _, head, body = await asked("/dashboard/")
    policy = head["content-security-policy"]
    found = re.search(rb'<script type="importmap">(.*?)</script>', body)
    assert found is not None
    digest = base64.b64encode(hashlib.sha256(found[1]).digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none';")
    assert re.findall(rb"<style|\son\w+=|style=", body) == []


async def test_a_prefix_stands_before_everything() -> None:
    _, _, body = await asked("/dashboard/", x_forwarded_prefix="/ops")
    assert b'<base href="/ops/dashboard/">' in body
    assert b'name="toril-api" content="/ops/"' in body
    status, head, _ = await asked("/dashboard", x_forwarded_prefix="/ops")
    assert (status, head["location"]) == (307, "/ops/dashboard/")


async def test_a_file_comes_with_its_type_and_is_not_sent_twice() -> None:
    status, head, body = await asked("/dashboard/static/app.js")
    assert (status, head["content-type"]) == (200, "text/javascript;charset=utf-8")
    assert body == (STATIC / "app.js").read_bytes()
    again, _, nothing = await asked("/dashboard/static/app.js", if_none_match=head["etag"])
    assert (again, nothing) == (304, b"")


async def test_what_the_document_names_is_kept_by_browsers() -> None:
    named = re.findall(rb'(?:src|href)="(static/[^"]+)"', (await asked("/dashboard/"))[2])
    assert len(named) == 4
    for path in named:
        status, head, body = await asked(f"/dashboard/{path.decode()}")
        assert (status, head["cache-control"]) == (200, "max-age=31536000, immutable")
        assert body == (STATIC / path.decode().split("/", 2)[2]).read_bytes()


@pytest.mark.parametrize("path", ["app.js", "0123456789abcdef/app.js"])
async def test_a_file_under_another_address_is_asked_for_again(path: str) -> None:
    status, head, body = await asked(f"/dashboard/static/{path}")
    assert (status, head["cache-control"]) == (200, "no-cache")
    assert body == (STATIC / "app.js").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard/static/../routes.py",
        "/dashboard/static/0123456789abcdef/../routes.py",
        "/dashboard/static/0123456789abcdef/none.js",
        "/dashboard/static/lib/app.js",
        "/dashboard/static/%2e%2e/routes.py",
        "/dashboard/static/",
        "/dashboard/static/none.js",
    ],
)
async def test_a_path_of_no_dashboard_file_is_not_found(path: str) -> None:
    assert (await asked(path))[0] == 404


async def test_dashboard_routes_refuse_writing_methods() -> None:
    status, head, _ = await asked("/dashboard/", "POST")
    assert (status, head["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_options_lists_the_allowed_methods() -> None:
    status, head, body = await asked("/dashboard/queues", "OPTIONS")
    assert (status, head["allow"], body) == (204, "GET, HEAD, OPTIONS", b"")


def test_a_path_that_only_begins_like_the_dashboards_does_not_match() -> None:
    assert DashboardRoute("/dashboard").matches(scope("GET", "/dashboards"))[0] is Match.NONE


def test_vendored_files_are_those_of_their_packages() -> None:
    listed = json.loads((STATIC / "vendor" / "vendored.json").read_text())
    assert {one["file"] for one in listed} == {file.name for file in (STATIC / "vendor").glob("*.js")}
    for one in listed:
        digest = hashlib.sha384((STATIC / "vendor" / one["file"]).read_bytes()).digest()
        assert base64.b64encode(digest).decode() == one["sha384"], one["file"]
        assert one["licence"] in {"MIT", "Apache-2.0"}
        assert one["version"]


def test_the_dashboard_is_small() -> None:
    files = [file for file in STATIC.rglob("*") if file.suffix in {".js", ".css"}]
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) < 120 * 1024


_MARKUP = re.compile(r"innerHTML|dangerouslySetInnerHTML|outerHTML|\beval\(|new Function|document\.write")
_ORIGIN = re.compile(r"https?://[^\s\"'`/]+")


def test_modules_name_no_other_origin_and_write_no_markup() -> None:
    for file in STATIC.rglob("*.js"):
        if file.parent.name == "vendor":
            continue
        text = file.read_text()
        assert _MARKUP.findall(text) == [], file
        assert [url for url in _ORIGIN.findall(text) if "example" not in url and "localhost" not in url] == [], file
