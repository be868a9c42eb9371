"""What a route says of itself: its parameters, its body, its answers, its errors. Declared beside the handler that they
are true of, read by `toril.gateway.openapi`.

Errors that come from the access of a route, or from its having a body, are not said again: the document adds them.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from toril.core.errors import TorilError


class Parameter(Struct, frozen=True):
    """A query parameter or a header of a request; `kind` is a type that msgspec can describe."""

    name: str
    kind: Any
    text: str
    required: bool = False
    place: Literal["query", "header"] = "query"


class Reply(Struct, frozen=True):
    """An answer that is no error: what `text` says, with a body of this kind. No kind is no body, or one that can be
    anything. Several of one status differ in their content types.
    """

    kind: Any
    text: str
    status: int | Literal["default"] = 200
    content_type: str = "application/json"
    headers: tuple[Parameter, ...] = ()


class About(Struct, frozen=True):
    """A route, described.

    `body` is the type that the handler decodes, or a shape of `toril.gateway.shapes`; where `body_required` is false,
    no body is all defaults. `errors` are those that the handler itself raises. Without a `summary` it is what the
    handler's docstring says first.
    """

    answers: tuple[Reply, ...]
    body: Any = None
    body_required: bool = True
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[type[TorilError], ...] = ()
    summary: str = ""


class SocketAbout(Struct, frozen=True):
    """A socket, described: the messages that a client may send (`receives`), and those that it is sent (`sends`)."""

    receives: Any
    sends: Any
    parameters: tuple[Parameter, ...] = ()


class ProxiedAbout(Struct, frozen=True):
    """What the async proxy answers at one path by one method, described.

    `refusals` are the statuses of its own errors (`toril.gateway.sourced.ERRORS`). With `any_body`, a body of any kind
    is taken.
    """

    summary: str
    answers: tuple[Reply, ...]
    refusals: tuple[int, ...]
    parameters: tuple[Parameter, ...] = ()
    text: str = ""
    any_body: bool = False


DONE = Reply(None, "Done", 204)
OK_TEXT = Reply(str, "Done: `OK`", content_type="text/plain")
