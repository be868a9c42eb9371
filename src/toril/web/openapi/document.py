"""The gateway's own description, OpenAPI 3.1: made of the route table that serves requests and of the structs that are
decoded, so that neither can say what the other does not know.

Pure: routes in, a document out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from msgspec import Struct

from toril.core.access import Right
from toril.core.errors import (
    Forbidden,
    InvalidRequest,
    LeaseLost,
    PayloadTooLarge,
    RateLimited,
    ShuttingDown,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TorilError,
    Unauthorized,
    WrongLockToken,
)
from toril.web.access_control import Access
from toril.web.openapi import proxied_routes as openapi_proxy
from toril.web.openapi.description import About, Reply, SocketAbout
from toril.web.openapi.proxied_routes import PROXIED_JOBS, UPSTREAMS, ProxyAbout
from toril.web.openapi.schemas import REF, RETRY_AFTER, Json, Schemas
from toril.web.routing import Route, SocketRoute
from toril.web.shapes import Problem

_PLACES = {
    "queue": "The queue's name, percent-encoded",
    "id": "The id of the job, or of the scheduler, percent-encoded",
    "concurrency": "How many jobs the worker takes at once",
}
_GATEWAY = "An HTTP gateway over BullMQ queues."
_TOKENS = """\
**Tokens.** `Authorization: Bearer <token>`, the scheme in any case. Each route says what it needs: an API token with a
right on the queue in the path, or the lock token that came with a job. A token without the right gets the same answer
whether or not the queue exists. The rights are {rights}.

Without the right `payloads:read` a token sees `(hidden)` in place of callers' secrets: the headers `authorization`,
`proxy-authorization`, `cookie` and `set-cookie` of proxied requests, envelopes and answers, wherever they are shown.
Workers get their jobs whole."""
_ERRORS = """\
**Errors.** Routes that BullMQ Proxy also has answer with plain text, in its words; all others with problem details
(RFC 9457). Both have a stable code in the header `toril-code`. A request is checked in this order: route, token,
right, validity. If no route has its path and method, the answer is `404` in plain text. Before that, a request with a
too large head is answered with `431`, one that does not arrive in time with `408`, one without exactly one `Host`
with `400`, and one with another transfer coding than `chunked` with `501`; then the connection is closed."""
_SOCKETS = """\
**WebSockets** are the paths below `/ws`. OpenAPI cannot describe their messages, so `x-websocket` has the schemas of
the messages, which are one JSON text each."""
# In the order in which a reader wants them; all other tags come last.
_PROXIED_REQUESTS = "proxied requests"
_TAGS = (
    UPSTREAMS,
    PROXIED_JOBS,
    _PROXIED_REQUESTS,
    "queues",
    "jobs",
    "flows",
    "schedulers",
    "workers",
    "events",
    "sockets",
)
_SECURITY = {
    "apiToken": {"type": "http", "scheme": "bearer", "description": "An API token, with the rights that are listed"},
    "lockToken": {"type": "http", "scheme": "bearer", "description": "The lock token that came with the job"},
    "tokenInUrl": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "The same API token, for browsers, which can set no header",
    },
}


class Served(Struct, frozen=True):
    """What an instance serves.

    `routes` and `sockets` are of the tables, in the order to show them, and lie below the path `under`. `proxy` is what
    the async proxy serves beside them.
    """

    routes: Sequence[Route]
    sockets: Sequence[SocketRoute] = ()
    under: str = ""
    proxy: ProxyAbout | None = None


def document(version: str, served: Served) -> Json:
    """Return the whole document. Routes that do not describe themselves are left out; a test finds them.

    Paths are those below the place that toril is at; where that is not the server's root, `DocsRoutes` names it in
    `servers`.

    Args:
        version: toril's own.
        served: what to describe.
    """
    proxied = () if served.proxy is None else served.proxy.routes
    schemas = Schemas([*_kinds(served.routes, served.sockets), *openapi_proxy.kinds(proxied)])
    paths = openapi_proxy.paths(proxied, schemas)
    for route in served.routes:
        if route.about is not None:
            operation = _operation(route, route.about, schemas)
            paths.setdefault(served.under + route.path, {})[route.method.lower()] = operation
    for socket in served.sockets:
        if socket.about is not None:
            paths.setdefault(served.under + socket.path, {})["get"] = _handshake(socket, socket.about, schemas)
    used = {operation["tags"][0] for path in paths.values() for operation in path.values()}
    tags = sorted(used, key=lambda tag: (_TAGS.index(tag) if tag in _TAGS else len(_TAGS), tag))
    return {
        "openapi": "3.1.0",
        "info": {"title": "toril", "version": version, "description": _introduction(served)},
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": dict(sorted(schemas.responses.items())),
            "securitySchemes": _SECURITY if served.proxy is None else _SECURITY | openapi_proxy.SECURITY,
        },
    }


def _introduction(served: Served) -> str:
    tokens = _TOKENS.format(rights=", ".join(f"`{right}`" for right in Right))
    parts = [_GATEWAY, *([] if served.proxy is None else [served.proxy.text]), tokens]
    if served.sockets:  # else most of it is off
        parts += [_ERRORS, _SOCKETS]
    return "\n\n".join(parts) + "\n"


def _kinds(routes: Iterable[Route], sockets: Iterable[SocketRoute]) -> list[Any]:
    kinds: list[Any] = [Problem]
    for route in routes:
        if route.about is not None:
            kinds += [route.about.body, *(reply.kind for reply in route.about.answers)]
            kinds += [parameter.kind for parameter in route.about.parameters]
    for socket in sockets:
        if socket.about is not None:
            kinds += [socket.about.receives, socket.about.sends]
            kinds += [parameter.kind for parameter in socket.about.parameters]
    return kinds


def _refusals(errors: Iterable[type[TorilError]], schemas: Schemas, *, own: bool) -> Json:
    """Return references to the answers to these errors, by status. Routes with the same errors share them."""
    by_status: dict[int, set[str]] = {}
    for error in errors:
        by_status.setdefault(error.status, set()).add(error.code)
    answers = {}
    for status, codes in sorted(by_status.items()):
        name = "-".join(["problem" if own else "text", str(status), *sorted(codes)])
        schemas.responses[name] = _error(status, sorted(codes), own=own)
        answers[str(status)] = {"$ref": f"#/components/responses/{name}"}
    return answers


def _operation(route: Route, about: About, schemas: Schemas) -> Json:
    errors = _errors(route, about)
    answers = _refusals(errors, schemas, own=route.own)
    answers |= _replies(about.answers, schemas)
    operation: Json = {
        "operationId": route.name,
        "tags": [_tag(route.path)],
        "summary": (about.summary or _first_paragraph(route.endpoint.__doc__ or "")),
        "description": _needs(route),
        "parameters": [*_places(route.path), *(schemas.parameter(one) for one in about.parameters)],
        "responses": answers,
        "security": _security(route.access, route.right, in_url=route.token_in_url),
    }
    if about.body is not None:
        content = {"application/json": {"schema": schemas.body(about.body)}}
        operation["requestBody"] = {"required": about.body_required, "content": content}
    return operation


def _handshake(socket: SocketRoute, about: SocketAbout, schemas: Schemas) -> Json:
    refusals = (InvalidRequest, Unauthorized, Forbidden, RateLimited, StoreUnavailable, ShuttingDown)
    answers: Json = {"101": {"description": "The WebSocket is open"}}
    answers |= _refusals(refusals, schemas, own=False)
    return {
        "operationId": socket.name,
        "tags": ["sockets"],
        "summary": _first_paragraph(socket.endpoint.__doc__ or ""),
        "description": _needs(socket),
        "parameters": [*_places(socket.path), *(schemas.parameter(one) for one in about.parameters)],
        "responses": answers,
        "security": _security(socket.access, socket.right, in_url=True),
        "x-websocket": {"receives": schemas.of(about.receives), "sends": schemas.of(about.sends)},
    }


def _errors(route: Route, about: About) -> list[type[TorilError]]:
    """Return the errors of a route: its own, and those of its access and its body."""
    errors: list[type[TorilError]] = []
    if "{" in route.path or about.parameters or about.body is not None:
        errors.append(InvalidRequest)
    if route.access is not Access.OPEN:
        errors += [Unauthorized, TorilError, StoreError, StoreRefused, StoreUnavailable]
    if route.access is Access.TOKEN:
        errors += [Forbidden, RateLimited, ShuttingDown]
    if route.access is Access.LOCK and LeaseLost in about.errors:
        errors.append(WrongLockToken)
    if about.body is not None:
        errors.append(PayloadTooLarge)
    return [*errors, *about.errors]


def _replies(replies: Iterable[Reply], schemas: Schemas) -> Json:
    """Return answers by status; of several with one status, the first one gives the description."""
    answers: Json = {}
    for reply in replies:
        answer = answers.setdefault(str(reply.status), {"description": reply.text})
        if reply.kind is not None:
            answer.setdefault("content", {})[reply.content_type] = {"schema": schemas.of(reply.kind)}
    return answers


def _error(status: int, codes: list[str], *, own: bool) -> Json:
    """Return the answer to errors of one status."""
    said = "; ".join(f"`{code}`" for code in codes)
    headers: Json = {"toril-code": {"description": "The code of the error", "schema": {"enum": codes}}}
    if status in {429, 503}:
        headers |= RETRY_AFTER
    if own:
        only: Json = {
            "type": "object",
            "properties": {"code": {"type": "string", "enum": codes}, "status": {"type": "integer", "enum": [status]}},
        }
        problem = {"allOf": [{"$ref": REF.format(name=Problem.__name__)}, only]}
        content: Json = {"application/problem+json": {"schema": problem}}
    else:
        content = {"text/plain": {"schema": {"type": "string"}}}
    return {"description": f"{HTTPStatus(status).phrase}: {said}", "headers": headers, "content": content}


def _needs(route: Route | SocketRoute) -> str:
    if route.access is Access.OPEN:
        return "Needs no token."
    if route.access is Access.LOCK:
        return "Needs the lock token of the job."
    what = "any right" if route.right is None else f"the right `{route.right}`"
    place = next((f" on the {name}" for name in ("queue", "target") if f"{{{name}}}" in route.path), "")
    return f"Needs {what}{place}."


def _security(access: Access, right: Any, *, in_url: bool) -> list[Json]:
    if access is Access.OPEN:
        return []
    if access is Access.LOCK:
        return [{"lockToken": []}]
    rights = [] if right is None else [str(right)]
    return [{"apiToken": rights}, *([{"tokenInUrl": rights}] if in_url else [])]


def _places(template: str) -> list[Json]:
    names = [part[1:-1] for part in template.split("/") if part.startswith("{")]
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PLACES.get(name, f"The {name}, percent-encoded"),
            "schema": {"type": "string", "minLength": 1},
        }
        for name in names
    ]


def _tag(template: str) -> str:
    """Return the tag of a path: the last of its parts that is one."""
    parts = template.split("/")[1:]
    if parts[0] in ("upstreams", "proxied"):
        return _PROXIED_REQUESTS
    for part in reversed(parts):
        if part in _TAGS:
            return part
    return parts[0] if "{" in template else "operations"


def _first_paragraph(text: str) -> str:
    return " ".join(text.strip().partition("\n\n")[0].split())
