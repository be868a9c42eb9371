"""The async proxy's part of the document: its jobs API, and what each upstream's prefix takes.

Pure, like `toril.web.openapi.document`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from msgspec import Struct

from toril.web.openapi.description import Parameter, ProxiedAbout, Reply
from toril.web.openapi.schemas import RETRY_AFTER, Json, Schemas
from toril.web.sourced import ERRORS, SOURCE, ProxyError

UPSTREAMS = "upstreams"
PROXIED_JOBS = "proxied jobs"
SECURITY: Json = {
    "owner": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "If only its owner may see a job: the same value as on the submission",
    }
}
_OWNER = "Needs the same `Authorization` as the submission; for any other caller the job does not exist."
_ANYBODY = "Needs no token: the id cannot be guessed."
_PLACES = {
    "id": "The id of the job, from the answer to its submission",
    "path": (
        "Everything after the prefix; may be empty. It is passed on byte for byte, slashes and percent-encoding "
        "included. Path parameters of OpenAPI contain no slash, so a generated client has to be told not to encode it"
    ),
}
_ANY_BODY: Json = {
    # Of `*/*` openapi-python-client makes no operation, and of several content types one that fails.
    "description": "Any body, passed on as it is. JSON is here for any content type",
    "required": False,
    "content": {"application/json": {"schema": {}}},
}
_SOURCE = {
    "X-Proxq-Source": {
        "description": "toril itself made this response, not an upstream",
        "required": True,
        "schema": {"const": SOURCE[1].decode()},
    }
}


class ProxiedOperation(Struct, frozen=True):
    """A method and a path template of the async proxy, its name, its tag and its description.

    `owned` is True if only the owner of a job may call it.
    """

    method: str
    template: str
    name: str
    tag: str
    about: ProxiedAbout
    owned: bool = False


class ProxyAbout(Struct, frozen=True):
    """The description of the async proxy: its routes in the order to show them, and its part of the introduction."""

    routes: Sequence[ProxiedOperation]
    text: str


def kinds(routes: Iterable[ProxiedOperation]) -> list[Any]:
    """Return the types whose schemas these routes need."""
    found: list[Any] = []
    for route in routes:
        found += [ProxyError, *(parameter.kind for parameter in route.about.parameters)]
        for reply in route.about.answers:
            found += [reply.kind, *(header.kind for header in reply.headers)]
    return found


def paths(routes: Iterable[ProxiedOperation], schemas: Schemas) -> dict[str, Json]:
    """Return the operations of these routes, by path and method."""
    found: dict[str, Json] = {}
    for route in routes:
        found.setdefault(route.template, {})[route.method.lower()] = _operation(route, schemas)
    return found


def _operation(route: ProxiedOperation, schemas: Schemas) -> Json:
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
    """Add an answer; of several with one status, the first one gives the description."""
    answer = answers.setdefault(str(reply.status), {"description": reply.text})
    if reply.status != "default":
        answer.setdefault("headers", {**_SOURCE}).update(_headers(reply.headers, schemas))
    if reply.kind is not None:
        answer.setdefault("content", {})[reply.content_type] = {"schema": schemas.of(reply.kind)}


def _headers(headers: Iterable[Parameter], schemas: Schemas) -> Json:
    return {header.name: schemas.header(header) for header in headers}


def _refusal(status: int, schemas: Schemas, *, bodiless: bool) -> Json:
    """Return an error response of toril, which all operations with this error share."""
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
