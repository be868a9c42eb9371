"""`/whoami`: the rights of the token in use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from starlette.responses import Response

from toril.core.times import moment_text
from toril.web import shapes
from toril.web.openapi.description import About, Reply
from toril.web.request import Request
from toril.web.responses import json_response
from toril.web.routing import Route

_encode = msgspec.json.Encoder().encode
_WHOAMI = About((Reply(shapes.Whoami, "The token"),))


class WhoamiRoutes:
    """The route that tells callers about their own token.

    Args:
        version: toril's own.
        doors: those that this instance has.
        expires_at_s: when the token in an `Authorization` header expires.
    """

    def __init__(
        self, version: str, doors: Callable[[], Sequence[str]], expires_at_s: Callable[[bytes | None], float | None]
    ) -> None:
        self._version = version
        self._doors = doors
        self._expires_at_s = expires_at_s

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/whoami", self.whoami, own=True, about=_WHOAMI)]

    async def whoami(self, request: Request) -> Response:
        """Get the name and rights of the token in use, and the queues and targets (globs) that they are valid for."""
        caller, expires_at_s = request.caller, self._expires_at_s(request.authorization)
        shown = shapes.Whoami(
            name=caller.name,
            rights=sorted(caller.rights),
            queues=list(caller.globs),
            expires=None if expires_at_s is None else moment_text(expires_at_s),
            version=self._version,
            doors=list(self._doors()),
        )
        return json_response(_encode(shown))
