"""`/openapi.json` and `/docs`: the description of the API, for programs and for people.

The page loads nothing else, so it works without a connection to the internet. Both need no token and name no queue.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import msgspec
from starlette.responses import Response

from toril.web.access_control import Access
from toril.web.mounting import FORWARDED_PREFIX, front
from toril.web.openapi.description import About, Reply
from toril.web.openapi.document import Served, document
from toril.web.request import Request
from toril.web.responses import BytesResponse
from toril.web.routing import Route

_HTML = b"text/html;charset=utf-8"
# Nothing is fetched but the document, nothing runs but what the page brings along.
_POLICY = (
    b"default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = ((b"content-security-policy", _POLICY), (b"x-content-type-options", b"nosniff"))
_DOCUMENT = About((Reply(dict[str, Any], "The document"),))
_PAGE = About((Reply(str, "The page", content_type="text/html"),))


class DocsRoutes:
    """Routes that describe the API.

    Args:
        version: toril's own.
        served: what is served, these routes included. Asked once, at the first request.
    """

    def __init__(self, version: str, served: Callable[[], Served]) -> None:
        self._version = version
        self._served = served
        self._document = b""
        self._html = b""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/openapi.json", self.openapi, access=Access.OPEN, own=True, about=_DOCUMENT),
            Route("/docs", self.page, access=Access.OPEN, own=True, about=_PAGE),
        ]

    async def openapi(self, request: Request) -> Response:
        """Get the OpenAPI document."""
        if not self._document:
            self._document = msgspec.json.encode(document(self._version, self._served()))
        text, before = self._document, front(request.scope)
        if before:
            text = b'{"servers":[{"url":"%b"}],%b' % (before, text[1:])
        return BytesResponse(text, headers=((b"vary", FORWARDED_PREFIX),))

    async def page(self, request: Request) -> Response:
        """Show the OpenAPI document as a page."""
        if not self._html:
            self._html = (files("toril.web.openapi") / "docs.html").read_bytes()
        return BytesResponse(self._html, content_type=_HTML, headers=_HEADERS)
