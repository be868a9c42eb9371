"""Serves the dashboard's files. All data comes from the public API, under the rights of the token in use.

Any path below the dashboard's that is no file is one of its pages, so a link to a page can be shared. The page runs
nothing but its own modules, and asks no other origin. The modules' addresses hold a digest of all of them, so a browser
keeps them: a page that it has shown before takes one question instead of one for each module.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct
from starlette.datastructures import URLPath
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from toril.core.errors import MethodNotAllowed, NotFound
from toril.web.mounting import FORWARDED_PREFIX, front, route_path, url_path
from toril.web.problems import problem
from toril.web.responses import BytesResponse

_ALLOWED = "GET, HEAD, OPTIONS"
_STATIC = b"static/"
_DIGEST = re.compile(rb"[0-9a-f]{16}")
_KEPT = (b"cache-control", b"max-age=31536000, immutable")
_ASKED_FOR_AGAIN = (b"cache-control", b"no-cache")
_TYPES = {
    "css": b"text/css;charset=utf-8",
    "js": b"text/javascript;charset=utf-8",
    "json": b"application/json",
    "svg": b"image/svg+xml",
}


class VendoredFile(Struct):
    """A third-party file in `vendor/vendored.json`. `specifier` is the name by which modules import it."""

    package: str
    version: str
    licence: str
    source: str
    file: str
    specifier: str
    sha384: str


class _File(Struct, frozen=True):
    body: bytes
    content_type: bytes
    etag: bytes


class DashboardRoute(BaseRoute):
    """The route of everything below the dashboard's path.

    Args:
        path: where the dashboard is, with a slash at its beginning and none at its end.

    `inspector` is the path of the list of requests that `toril dev` has inspected; empty without it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "dashboard"
        self.inspector = ""
        self._raw_path = path.encode()
        self._files: dict[bytes, _File] = {}
        self._digest = b""
        self._page = b""
        self._headers: tuple[tuple[bytes, bytes], ...] = ()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Part of Starlette's routes."""
        if scope["type"] != "http":
            return Match.NONE, {}
        path = route_path(scope)
        below = path == self._raw_path or path.startswith(self._raw_path + b"/")
        return (Match.FULL, {"endpoint": self}) if below else (Match.NONE, {})

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Return the path of the dashboard."""
        if name != self.name or path_params:
            raise NoMatchFound(name, path_params)
        return URLPath(self.path + "/", "http")

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Part of Starlette's routes."""
        response = self._respond(scope)
        await response(scope, receive, send)

    def _respond(self, scope: Scope) -> Response:
        if scope["method"] == "OPTIONS":
            return BytesResponse(status_code=204, headers=((b"allow", _ALLOWED.encode()),))
        if scope["method"] not in ("GET", "HEAD"):
            return problem(MethodNotAllowed(allowed=_ALLOWED), own=True)
        if not self._files:
            self._load()
        rest = route_path(scope)[len(self._raw_path) :]
        if not rest:
            to = url_path(scope, self._raw_path) + b"/"
            return BytesResponse(status_code=307, content_type=b"text/plain", headers=((b"location", to),))
        name = unquote_to_bytes(rest[1:])
        if not name.startswith(_STATIC):
            return self._index(scope)
        digest, _, below = name[len(_STATIC) :].partition(b"/")
        # The page of an instance with another version of toril names another digest, under which nothing may be kept.
        found = self._files.get(below if _DIGEST.fullmatch(digest) else name[len(_STATIC) :])
        if found is None:
            return problem(NotFound(), own=True)
        headers = ((b"etag", found.etag), _KEPT if digest == self._digest else _ASKED_FOR_AGAIN, *_SAFE)
        if found.etag in _header(scope, b"if-none-match"):
            return BytesResponse(status_code=304, content_type=found.content_type, headers=headers)
        return BytesResponse(found.body, content_type=found.content_type, headers=headers)

    def _index(self, scope: Scope) -> Response:
        """Return the page with the paths of the dashboard and the API for this caller."""
        base = url_path(scope, self._raw_path) + b"/"
        api = url_path(scope, b"/")
        inspector = front(scope) + self.inspector.encode() if self.inspector else b""
        body = self._page.replace(b"{{base}}", _escaped(base)).replace(b"{{api}}", _escaped(api))
        body = body.replace(b"{{inspector}}", _escaped(inspector))
        return BytesResponse(body, content_type=b"text/html;charset=utf-8", headers=self._headers)

    def _load(self) -> None:
        """Read all files once. The wheel, the source archive and a checkout hold the same files."""
        static = files("toril.dashboard") / "static"
        self._files = dict(_tree(static, b""))
        etags = b"".join(name + one.etag for name, one in sorted(self._files.items()))
        self._digest = hashlib.sha256(etags).hexdigest()[:16].encode()
        vendored = msgspec.json.decode((static / "vendor" / "vendored.json").read_bytes(), type=list[VendoredFile])
        imports = {one.specifier: f"./static/{self._digest.decode()}/vendor/{one.file}" for one in vendored}
        import_map = msgspec.json.encode({"imports": imports})
        digest = base64.b64encode(hashlib.sha256(import_map).digest())
        policy = (
            b"default-src 'none'; script-src 'self' 'sha256-%b'; style-src 'self'; img-src 'self' data:; "
            b"connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'" % digest
        )
        self._headers = (
            (b"content-security-policy", policy),
            (b"cache-control", b"no-store"),
            (b"vary", FORWARDED_PREFIX),
            *_SAFE,
        )
        page = (static / "index.html").read_bytes().replace(b"{{importmap}}", import_map)
        self._page = page.replace(b"{{digest}}", self._digest)


_SAFE = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


def _tree(folder: Traversable, prefix: bytes) -> list[tuple[bytes, _File]]:
    found: list[tuple[bytes, _File]] = []
    for entry in folder.iterdir():
        name = prefix + entry.name.encode()
        if entry.is_dir():
            found += _tree(entry, name + b"/")
            continue
        content_type = _TYPES.get(entry.name.rpartition(".")[2])
        if content_type is not None:
            body = entry.read_bytes()
            etag = b'"%b"' % hashlib.sha256(body).hexdigest()[:32].encode()
            found.append((name, _File(body, content_type, etag)))
    return found


def _escaped(text: bytes) -> bytes:
    return html.escape(text.decode("latin-1")).encode("latin-1")


def _header(scope: Scope, name: bytes) -> bytes:
    return b", ".join(value for key, value in scope["headers"] if key == name)
