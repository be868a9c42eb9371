"""The description of a route: its parameters, body, answers and errors. Declared beside the handler that they
are true of, read by `toril.web.openapi.document`.

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
    """An answer that is not an error: `text` describes it, `kind` is the type of its body.

    Without a kind there is no body, or one of any type. Answers of one status differ in their content types.
    """

    kind: Any
    text: str
    status: int | Literal["default"] = 200
    content_type: str = "application/json"
    headers: tuple[Parameter, ...] = ()


class About(Struct, frozen=True):
    """The description of a route.

    `body` is the type that the handler decodes, or a shape of the door. If `body_required` is false, a request without
    a body means all defaults. `errors` are those that the handler itself raises. The default `summary` is the first
    paragraph of the handler's docstring.
    """

    answers: tuple[Reply, ...]
    body: Any = None
    body_required: bool = True
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[type[TorilError], ...] = ()
    summary: str = ""


class SocketAbout(Struct, frozen=True):
    """The description of a WebSocket: the messages that it receives from a client, and those that it sends."""

    receives: Any
    sends: Any
    parameters: tuple[Parameter, ...] = ()


class ProxiedAbout(Struct, frozen=True):
    """The description of one path and method of the async proxy.

    `refusals` are the statuses of the errors that toril itself returns (`toril.web.sourced.ERRORS`). With `any_body`, a
    body of any kind is accepted.
    """

    summary: str
    answers: tuple[Reply, ...]
    refusals: tuple[int, ...]
    parameters: tuple[Parameter, ...] = ()
    text: str = ""
    any_body: bool = False


DONE = Reply(None, "Done", 204)
OK_TEXT = Reply(str, "Done: `OK`", content_type="text/plain")
