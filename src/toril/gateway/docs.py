"""`/openapi.json` and `/docs`: what this server can do, for machines and for people.

The page has everything in it, so that it works where nothing else can be reached. Both are open to anybody and name
no queue.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import msgspec

from toril.gateway import wire
from toril.gateway.description import About, Reply
from toril.gateway.mounting import FORWARDED_PREFIX, front
from toril.gateway.openapi import Served, document
from toril.gateway.routing import Access, Answer, Request, Route

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
    """Says what this server can do.

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
        """The routes of this module."""
        return [
            Route("GET", "/openapi.json", Access.OPEN, self.openapi, own=True, about=_DOCUMENT),
            Route("GET", "/docs", Access.OPEN, self.page, own=True, about=_PAGE),
        ]

    async def openapi(self, request: Request) -> Answer:
        """This document."""
        if not self._document:
            self._document = msgspec.json.encode(document(self._version, self._served()))
        text, before = self._document, front(request.scope)
        if before:
            text = b'{"servers":[{"url":"%b"}],%b' % (before, text[1:])
        return Answer(200, wire.JSON, text, ((b"vary", FORWARDED_PREFIX),))

    async def page(self, request: Request) -> Answer:
        """The same, to be read by people."""
        if not self._html:
            self._html = (files("toril.gateway") / "docs.html").read_bytes()
        return Answer(200, _HTML, self._html, _HEADERS)
