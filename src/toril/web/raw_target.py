"""What a proxy needs from its server beyond ASGI: the raw request target, and answers without added headers.

`toril.server.proxied_http` leaves both in the scope. Where another server runs the application, the target is put
together from what ASGI has (which cannot tell `/x?` from `/x`), and its default headers stay.
"""

from __future__ import annotations

from urllib.parse import quote

from starlette.types import Scope, Send

TARGET = "toril.target"
CYCLE = "toril.cycle"
REASON = "toril.reason"
"""A key that toril adds to the message that begins an answer: its reason phrase, as bytes."""
TUNNEL = "toril.tunnel"
"""An ASGI extension of toril: this WebSocket handshake may be answered with 101, and is then bytes both ways."""
CUT_OFF = "toril.response.cut_off"
"""An ASGI message of toril: close the connection so that the client can tell that this answer is not whole."""
EARLY = "toril.response.early"
"""An ASGI message of toril: pass this head (`head`, a `StreamHead` below 200) on, before the answer itself."""


class ResponseCutOffError(RuntimeError):
    """The response broke off; an exception is the only way to tell this server."""


async def cut_off(scope: Scope, send: Send) -> None:
    """Break a response off so that the client can tell that it is not whole.

    Raises:
        ResponseCutOffError: where another server than toril's own runs the application. It closes the connection then.
    """
    if CYCLE not in scope:
        raise ResponseCutOffError
    await send({"type": CUT_OFF})


def raw_target(scope: Scope) -> bytes:
    """Return the path and query of a request, byte for byte as they were sent."""
    target: bytes | None = scope.get(TARGET)
    if target is not None and target[:1] == b"/":
        return target
    path = raw_path(scope)
    query: bytes = scope["query_string"]
    return b"%b?%b" % (path, query) if query else path


def raw_path(scope: Scope) -> bytes:
    """Return the raw path of a request; made from the decoded path if the server has no other."""
    raw: bytes | None = scope.get("raw_path")
    return quote(scope["path"], safe="/%:@!$&'()*+,;=-._~").encode() if raw is None else raw


def add_nothing(scope: Scope) -> None:
    """Keep the server from adding a `Date` header to this answer: it has the upstream's, or none."""
    cycle = scope.get(CYCLE)
    if cycle is not None:
        cycle.default_headers = []


def origin_form(target: bytes) -> bytes:
    """Return the target without scheme and authority, which only clients of a forward proxy send."""
    if target[:1] == b"/":
        return target
    _, found, rest = target.partition(b"://")
    return rest[rest.find(b"/") :] if found and b"/" in rest else b"/" if found else target
