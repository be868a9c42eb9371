"""Makes requests of toril's own API for a tool, in the name of the agent that called it.

Each goes through the router like one from outside, with the agent's token: its rights, its rate limit, the audit log
and the errors are the same. There is no other way for a tool to learn or to change anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from starlette.types import Message, Scope

from toril.core.errors import only_toril_error
from toril.core.http.headers import Header
from toril.core.http.trace_context import NAMES, trace_headers
from toril.web.audit import TOOL, note_refusal
from toril.web.request import REDACTED, Request
from toril.web.routing import Route

_MOST_BYTES = 16 * 2**20
_KEPT = ("app", "asgi", "client", "extensions", "http_version", "scheme", "server", "state")
"""The parts of a scope that are those of the connection, not of one request on it."""
_encode = msgspec.json.Encoder().encode


class RequestRefused(Exception):
    """The API refused a request: its status, its code, and what it says."""

    def __init__(self, action: str, status: int, code: str, detail: str) -> None:
        super().__init__(f"{action} was refused with {status}: {detail}")
        self.status = status
        self.code = code


class InnerRequests:
    """The requests of one call of a tool.

    Args:
        outer: the request that brought the call.
        routes: those that the tool may ask, by method and path.
        tool: its name, for the audit log.
        meta: the `_meta` of the call, which may hold a trace context.
    """

    def __init__(self, outer: Request, routes: Mapping[str, Route], tool: str, meta: Mapping[str, Any]) -> None:
        self._outer = outer
        self._routes = routes
        self._tool = tool
        self._trace = _trace(outer, meta)

    def may(self, action: str) -> bool:
        """Return True if this instance has a route, and the caller has its right."""
        route = self._routes.get(action)
        return route is not None and self._outer.caller.may(route.right)

    async def ask(
        self, action: str, *, query: Mapping[str, object] | None = None, body: object = None, **place: str
    ) -> Any:
        """Make a request and return what it answers, decoded; None for an answer without a body.

        Args:
            action: the route, as `GET /queues/{queue}`.
            query: its query; what is empty is left out.
            body: its body, if it takes one.
            place: the parameters of its path.

        Raises:
            RequestRefused: with what the API says.
        """
        route = self._routes[action]
        path = route.path
        for name, value in place.items():
            if not value:
                raise RequestRefused(action, 400, "invalid_request", f"{name} is empty")
            path = path.replace(f"{{{name}}}", quote(value, safe=""))
        sent = b"" if body is None else _encode(body)
        status, headers, text = await self._send(route, self._scope(route, path, query or {}), sent)
        if status >= 400:
            raise self._refusal(action, route, status, headers, text)
        return msgspec.json.decode(text) if text else None

    def _scope(self, route: Route, path: str, query: Mapping[str, object]) -> Scope:
        outer = self._outer.scope
        given = {name: value for name, value in query.items() if value not in ("", None)}
        authorization = self._outer.authorization
        return {name: outer[name] for name in _KEPT if name in outer} | {
            "type": "http",
            "method": route.method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": urlencode(given, errors="replace").encode(),
            "headers": [
                *([] if authorization is None else [(b"authorization", authorization)]),
                (b"accept", b"application/json"),
                (b"content-type", b"application/json"),
                *self._trace,
            ],
            REDACTED: True,
            TOOL: self._tool,
        }

    async def _send(self, route: Route, scope: Scope, body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        answer = _Collected()
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if unread:
                return unread.pop()
            await self._outer.disconnected()
            return {"type": "http.disconnect"}

        try:
            await self._outer.scope["router"](scope, receive, answer)
        except Exception as exc:
            note_refusal(scope, exc)
            if answer.status:
                raise
            failed = route.error_response(only_toril_error(exc) or exc)
            return failed.status_code, dict(failed.raw_headers), bytes(failed.body)
        if not answer.is_whole:
            raise RequestRefused(route.path, 413, "payload_too_large", f"the answer is longer than {_MOST_BYTES} bytes")
        return answer.status, answer.headers, b"".join(answer.parts)

    def _refusal(
        self, action: str, route: Route, status: int, headers: Mapping[bytes, bytes], text: bytes
    ) -> RequestRefused:
        code = headers.get(b"toril-code", b"").decode()
        detail = text.decode(errors="replace")
        if b"json" in headers.get(b"content-type", b""):
            detail = str(msgspec.json.decode(text).get("detail", ""))
        if status == 403 and route.right is not None:
            detail += f" (it needs the right {route.right} there)"
        if retry_after := headers.get(b"retry-after"):
            detail += f" (again in {retry_after.decode()} s)"
        return RequestRefused(action, status, code, detail)


class _Collected:
    """`send` of an inner request: keeps the answer."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []
        self.is_whole = True
        self._size = 0

    async def __call__(self, message: Message) -> None:
        """Part of ASGI."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
            return
        part = bytes(message.get("body", b""))
        self._size += len(part)
        self.is_whole = self._size <= _MOST_BYTES
        if self.is_whole:
            self.parts.append(part)


def _trace(outer: Request, meta: Mapping[str, Any]) -> Iterable[Header]:
    """Return the trace context of a call: that of its `_meta`, or else of its headers."""
    named = ((name, meta.get(name.decode())) for name in NAMES)
    given = [(name, value.encode("latin-1", "replace")) for name, value in named if isinstance(value, str)]
    return trace_headers(given or outer.scope["headers"])
