"""The inspector of `toril dev`: `/inspect/NAME` and every path below it answers anything, and remembers the request.

So a worker, an upstream or a target can be tried without a server. `GET /inspect`, which needs a token, lists the last
requests. An answer is JSON or plain text, and browsers are told to run nothing of it: it comes from the origin that the
dashboard has its token in.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from time import time

import msgspec
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from toril.cli.dev.inspected_requests import MAX_BODY_BYTES, MAX_REQUESTS, InspectedRequest, InspectedRequests
from toril.cli.dev.prescribed_answer import PrescribedAnswer, is_json, read_answer
from toril.core.access import Right
from toril.core.errors import Forbidden, InvalidRequest, MethodNotAllowed, NotFound, TorilError
from toril.core.integers import MAX_SAFE_INTEGER
from toril.web.auth import Tokens
from toril.web.mounting import route_path
from toril.web.parameters import integer_in
from toril.web.problems import error_response, problem
from toril.web.raw_target import raw_target
from toril.web.request import Request, percent_decoded
from toril.web.responses import JSON, PLAIN, BytesResponse, json_response

PATH = "/inspect"
_PATH = PATH.encode()
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_LISTED = 50
_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"sandbox; default-src 'none'"),
    (b"cache-control", b"no-store"),
)
_encode = msgspec.json.Encoder().encode

Tell = Callable[[InspectedRequest], None]
"""Called with each request, after its answer was sent."""


class InspectorRoute(BaseRoute):
    """Everything at and below `/inspect`.

    Args:
        requests: where they are kept.
        tokens: returns the tokens that are valid now.
        tell: shows a request.
    """

    def __init__(self, requests: InspectedRequests, tokens: Callable[[], Tokens], tell: Tell) -> None:
        self.name = "inspector"
        self.path = PATH
        self._requests = requests
        self._tokens = tokens
        self._tell = tell

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Part of Starlette's routes."""
        if scope["type"] != "http":
            return Match.NONE, {}
        path = route_path(scope)
        is_ours = path == _PATH or path.startswith(_PATH + b"/")
        return (Match.FULL, {"endpoint": self}) if is_ours else (Match.NONE, {})

    def error_response(self, error: Exception) -> Response:
        """Return the response to a request that failed."""
        return error_response(error, own=True)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Part of Starlette's routes."""
        request = Request(scope, receive, send)
        path = route_path(scope)
        if path in (_PATH, _PATH + b"/"):
            await self._listed(request)(scope, receive, send)
        else:
            await self._inspect(request, percent_decoded(path.split(b"/")[2]), send)

    def _listed(self, request: Request) -> BytesResponse:
        """Return the last requests, the newest first; `name`, `after`, `before` and `limit` choose among them."""
        caller = self._tokens().check(request.authorization)
        caller.demand(Right.PAYLOADS_READ)
        if not caller.all_queues:  # a request may show what belongs to any queue
            raise Forbidden
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(allowed="GET, HEAD")
        query = request.query()
        limit = integer_in(query, "limit", _LISTED, MAX_REQUESTS)
        after = integer_in(query, "after", 0, MAX_SAFE_INTEGER, least=0)
        before = integer_in(query, "before", MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
        found = self._requests.last(limit, name=query.get("name"), after=after, before=before)
        return json_response(_encode({"requests": [one.shown() for one in found]}))

    async def _inspect(self, request: Request, name: str, send: Send) -> None:
        if not _NAME.match(name):
            raise NotFound("A name has letters, digits, dots, underscores and hyphens, and at most 64 of them")
        at_s = time()
        body, body_bytes = await _beginning_of_body(request)
        number = self._requests.next_number()  # not before: who asks for what came after a number misses none
        answer, response = _answer_to(request, name, number)
        kept = InspectedRequest(
            number=number,
            name=name,
            at_s=at_s,
            method=request.method,
            target=raw_target(request.scope).decode("latin-1"),
            headers=tuple(request.scope["headers"]),
            body=body,
            body_bytes=body_bytes,
            status=response.status_code,
            delay_s=answer.delay_s,
            answer=bytes(response.body),
            answer_type=response.headers.get("content-type", ""),
        )
        self._requests.keep(kept)
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        await response(request.scope, request.receive, send)
        self._tell(kept)


async def _beginning_of_body(request: Request) -> tuple[bytes, int]:
    """Read a body to its end, and return its beginning and its length."""
    beginning, length = b"", 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("The request was broken off")
        part: bytes = message.get("body", b"")
        length += len(part)
        beginning += part[: MAX_BODY_BYTES - len(beginning)]
        if not message.get("more_body", False):
            return beginning, length


def _answer_to(request: Request, name: str, number: int) -> tuple[PrescribedAnswer, BytesResponse]:
    """Return what the request's query asks for, or the problem with it."""
    try:
        answer = read_answer(request.query())
    except TorilError as error:
        refused = problem(error, own=True)
        refused.raw_headers += _SAFE
        return PrescribedAnswer(error.status), refused
    content = answer.content(_encode({"inspected": name, "number": number}))
    kind = JSON if is_json(content) else PLAIN
    return answer, BytesResponse(content, answer.status, kind, _SAFE)
