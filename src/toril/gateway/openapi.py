"""The gateway's own description, OpenAPI 3.1: made of the route table that serves requests and of the structs that are
decoded, so that neither can say what the other does not know.

Pure: routes in, a document out. Called by `toril.gateway.docs`.
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
from toril.gateway import openapi_proxy
from toril.gateway.description import About, Reply, SocketAbout
from toril.gateway.openapi_proxy import PROXIED_JOBS, UPSTREAMS, ProxyAbout
from toril.gateway.routing import Access, Route, SocketRoute
from toril.gateway.schemas import REF, RETRY_AFTER, Json, Schemas
from toril.gateway.shapes import Problem

_PLACES = {
    "queue": "The queue's name, percent-encoded",
    "id": "The id of the job, or of the scheduler, percent-encoded",
    "concurrency": "How many jobs at once",
}
_GATEWAY = "An HTTP gateway over BullMQ queues."
_TOKENS = """\
**Tokens.** `Authorization: Bearer <token>`, the scheme in any case. What a route needs stands with it: an API token
with a right on the queue that the path names, or the lock token that came with a job. The answer to a token that has
not the right is the same whether or not the queue exists. The rights are {rights}.

Without the right `payloads:read` a token sees `(hidden)` in place of callers' secrets: the headers `authorization`,
`proxy-authorization`, `cookie` and `set-cookie` of proxied requests, envelopes and answers, wherever they are shown.
Workers that lease jobs, or are sent them, get them whole."""
_ERRORS = """\
**Errors.** Routes that BullMQ Proxy has answer in plain text, in its words; all others with problem details (RFC 9457).
The header `toril-code` has a stable code on both. They are checked in this order: route, token, right, validity. What
matches no route, by its path or its method, is answered `404` in plain text. A request whose head is too large is
answered `431` before any of this, one that does not come whole in time `408`, one without exactly one `Host` `400`, and
one in another transfer coding than `chunked` `501`; then the connection is closed."""
_SOCKETS = """\
**Sockets** stand among the paths under `/ws`. OpenAPI has no words for what goes over them: `x-websocket` has the
schemas of the messages, one JSON text each."""
# In the order in which a reader wants them; what else there is comes behind.
_TAGS = (UPSTREAMS, PROXIED_JOBS, "queues", "jobs", "flows", "schedulers", "workers", "events", "sockets")
_SECURITY = {
    "apiToken": {"type": "http", "scheme": "bearer", "description": "An API token, with the rights that are listed"},
    "lockToken": {"type": "http", "scheme": "bearer", "description": "The lock token that came with the job"},
    "tokenInUrl": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "The same API token, where a browser can set no header",
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
    """The whole document. Routes that do not describe themselves are left out; a test finds them. Paths are those below
    the place that toril is at; where that is not the server's root, `DocsRoutes` names it in `servers`.

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
            paths.setdefault(served.under + route.template, {})[route.method.lower()] = operation
    for socket in served.sockets:
        if socket.about is not None:
            paths.setdefault(served.under + socket.template, {})["get"] = _handshake(socket, socket.about, schemas)
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
    """References to the answers to these errors, by status. Routes that can go wrong alike share them."""
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
    answers: Json = {str(reply.status): _reply(reply, schemas) for reply in about.answers}
    answers |= _refusals(errors, schemas, own=route.own)
    operation: Json = {
        "operationId": _id_of(route.method, route.template),
        "tags": [_tag(route.template)],
        "summary": (about.summary or _first_paragraph(route.handler.__doc__ or "")),
        "description": _needs(route),
        "parameters": [*_places(route.template), *(schemas.parameter(one) for one in about.parameters)],
        "responses": answers,
        "security": _security(route.access, route.right, in_url=route.token_in_url),
    }
    if about.body is not None:
        content = {"application/json": {"schema": schemas.body(about.body)}}
        operation["requestBody"] = {"required": about.body_required, "content": content}
    return operation


def _handshake(socket: SocketRoute, about: SocketAbout, schemas: Schemas) -> Json:
    refusals = (InvalidRequest, Unauthorized, Forbidden, RateLimited, StoreUnavailable, ShuttingDown)
    answers: Json = {"101": {"description": "The socket is open"}}
    answers |= _refusals(refusals, schemas, own=False)
    return {
        "operationId": _id_of("ws", socket.template),
        "tags": ["sockets"],
        "summary": "A WebSocket: " + _first_paragraph(type(getattr(socket.handler, "__self__", None)).__doc__ or ""),
        "description": _needs(socket),
        "parameters": [*_places(socket.template), *(schemas.parameter(one) for one in about.parameters)],
        "responses": answers,
        "security": _security(socket.access, socket.right, in_url=True),
        "x-websocket": {"receives": schemas.of(about.receives), "sends": schemas.of(about.sends)},
    }


def _errors(route: Route, about: About) -> list[type[TorilError]]:
    """What can go wrong: what the handler says, and what stands before and behind it."""
    errors: list[type[TorilError]] = []
    if "{" in route.template or about.parameters or about.body is not None:
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


def _reply(reply: Reply, schemas: Schemas) -> Json:
    if reply.kind is None:
        return {"description": reply.text}
    return {"description": reply.text, "content": {reply.content_type: {"schema": schemas.of(reply.kind)}}}


def _error(status: int, codes: list[str], *, own: bool) -> Json:
    """The answer to errors of one status."""
    said = "; ".join(f"`{code}`" for code in codes)
    headers: Json = {"toril-code": {"description": "Which of these it is", "schema": {"enum": codes}}}
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
    place = next((f" on the {name}" for name in ("queue", "target") if f"{{{name}}}" in route.template), "")
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
    """What a path is about: the last thing in it that has a name of its own."""
    parts = template.split("/")[1:]
    for part in reversed(parts):
        if part in _TAGS:
            return part
    return parts[0] if "{" in template else "operations"


def _id_of(method: str, template: str) -> str:
    words = template.replace("{", "").replace("}", "").replace("-", "/").split("/")
    return "_".join([method.lower(), *(word for word in words if word)])


def _first_paragraph(text: str) -> str:
    return " ".join(text.strip().partition("\n\n")[0].split())
