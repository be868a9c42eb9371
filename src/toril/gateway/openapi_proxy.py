"""The async proxy's part of the document: its jobs API, and what each upstream's prefix takes.

Pure, like `toril.gateway.openapi`, which calls it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from msgspec import Struct

from toril.gateway.description import Parameter, ProxiedAbout, Reply
from toril.gateway.schemas import RETRY_AFTER, Json, Schemas
from toril.gateway.sourced import ERRORS, SOURCE, ProxyError

UPSTREAMS = "upstreams"
PROXIED_JOBS = "proxied jobs"
SECURITY: Json = {
    "owner": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "Where only its owner sees a job: the same value as on the submission, whatever that was",
    }
}
_OWNER = "Needs the same `Authorization` as the job's submission; to anybody else there is no such job."
_ANYBODY = "Needs no token; the id, which cannot be guessed, is enough."
_PLACES = {
    "id": "The job's id, as its submission was answered",
    "path": (
        "All that follows the prefix, which may be nothing. It passes byte for byte, slashes and percent-encoding "
        "included; a path parameter of OpenAPI can hold no slash, so a generated client has to be told not to encode it"
    ),
}
_ANY_BODY: Json = {
    # Of `*/*` openapi-python-client makes no operation, and of several content types one that fails.
    "description": "Anything, passed on as it is. JSON stands here for any content type",
    "required": False,
    "content": {"application/json": {"schema": {}}},
}
_SOURCE = {
    "X-Proxq-Source": {
        "description": "toril itself says this, and not an upstream",
        "required": True,
        "schema": {"const": SOURCE[1].decode()},
    }
}


class ProxiedRoute(Struct, frozen=True):
    """A method and a path template of the async proxy, by what name and under which heading it is shown, and what is
    said of it. `owned` is what only a job's owner may do.
    """

    method: str
    template: str
    name: str
    tag: str
    about: ProxiedAbout
    owned: bool = False


class ProxyAbout(Struct, frozen=True):
    """The async proxy, described: its routes in the order to show them, and what stands in the introduction."""

    routes: Sequence[ProxiedRoute]
    text: str


def kinds(routes: Iterable[ProxiedRoute]) -> list[Any]:
    """What these routes need schemas of."""
    found: list[Any] = []
    for route in routes:
        found += [ProxyError, *(parameter.kind for parameter in route.about.parameters)]
        for reply in route.about.answers:
            found += [reply.kind, *(header.kind for header in reply.headers)]
    return found


def paths(routes: Iterable[ProxiedRoute], schemas: Schemas) -> dict[str, Json]:
    """The operations of these routes, by path and method."""
    found: dict[str, Json] = {}
    for route in routes:
        found.setdefault(route.template, {})[route.method.lower()] = _operation(route, schemas)
    return found


def _operation(route: ProxiedRoute, schemas: Schemas) -> Json:
    about = route.about
    answers: Json = {}
    for reply in about.answers:
        _add(answers, reply, schemas)
    for status in about.refusals:
        answers[str(status)] = _refusal(status, schemas, bodiless=route.method == "HEAD")
    operation: Json = {
        "operationId": f"{route.method.lower()}_{route.name}",
        "tags": [route.tag],
        "summary": about.summary,
        "description": about.text or (_OWNER if route.owned else _ANYBODY),
        "parameters": [*_places(route.template), *(schemas.parameter(one) for one in about.parameters)],
        "responses": answers,
        "security": [{"owner": []}, {}] if route.owned else [],
    }
    if about.any_body:
        operation["requestBody"] = _ANY_BODY
    return operation


def _add(answers: Json, reply: Reply, schemas: Schemas) -> None:
    """One answer more; of several with one status, the first says what it is."""
    answer = answers.setdefault(str(reply.status), {"description": reply.text})
    if reply.status != "default":
        answer.setdefault("headers", {**_SOURCE}).update(_headers(reply.headers, schemas))
    if reply.kind is not None:
        answer.setdefault("content", {})[reply.content_type] = {"schema": schemas.of(reply.kind)}


def _headers(headers: Iterable[Parameter], schemas: Schemas) -> Json:
    return {header.name: schemas.header(header) for header in headers}


def _refusal(status: int, schemas: Schemas, *, bodiless: bool) -> Json:
    """An error of our own, which all that can end so share."""
    error = ERRORS[status]
    answer: Json = {
        "description": f"{HTTPStatus(status).phrase}: `{error.code}`, {error.when}",
        "headers": _SOURCE | (RETRY_AFTER if status in {500, 503} else {}),
    }
    if not bodiless:
        answer["content"] = {"application/json": {"schema": schemas.of(ProxyError)}}
    name = f"proxy-{status}-head" if bodiless else f"proxy-{status}"
    schemas.responses[name] = answer
    return {"$ref": f"#/components/responses/{name}"}


def _places(template: str) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PLACES[name],
            "schema": {"type": "string", "minLength": 1} if name == "id" else {"type": "string"},
        }
        for name in (part[1:-1] for part in template.split("/") if part.startswith("{"))
    ]
