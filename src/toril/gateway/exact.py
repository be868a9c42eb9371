"""What a proxy needs of its server beside ASGI: the request target as it came, and an answer without additions.

`toril.proxied_http` leaves both in the scope. Where another server runs the application, the target is put together
from what ASGI has (which cannot tell `/x?` from `/x`), and its default headers stay.
"""

from __future__ import annotations

from starlette.types import Scope

TARGET = "toril.target"
CYCLE = "toril.cycle"
REASON = "toril.reason"
"""A key of ours in the message that begins an answer: its reason phrase, as bytes that are a header's value."""
EARLY = "toril.response.early"
"""An ASGI message of ours: pass this head (`head`, a `StreamHead` below 200) on, before the answer that is to come."""


def raw_target(scope: Scope) -> bytes:
    """Path and query of a request, byte for byte as they came."""
    target: bytes | None = scope.get(TARGET)
    if target is not None and target[:1] == b"/":
        return target
    path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return b"%b?%b" % (path, query) if query else path


def add_nothing(scope: Scope) -> None:
    """Let the server add no `Date` of its own to this answer: it has the upstream's, or none."""
    cycle = scope.get(CYCLE)
    if cycle is not None:
        cycle.default_headers = []


def origin_form(target: bytes) -> bytes:
    """Return the target without scheme and authority, which only those send who take us for a forward proxy."""
    if target[:1] == b"/":
        return target
    _, found, rest = target.partition(b"://")
    return rest[rest.find(b"/") :] if found and b"/" in rest else b"/" if found else target
