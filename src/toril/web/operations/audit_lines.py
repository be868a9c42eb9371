"""`/audit`: the last lines of the audit log."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from toril.core.access import Caller, Right
from toril.web import shapes
from toril.web.audit_trail import KEPT, AuditTrail
from toril.web.openapi.description import About, Reply
from toril.web.request import Request
from toril.web.responses import json_response
from toril.web.routing import Route

_AUDIT = About((Reply(shapes.AuditLines, f"The last {KEPT} lines, the newest first"),))


class AuditRoutes:
    """The route that lists lines of the audit log."""

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/audit", self.audit, right=Right.AUDIT_READ, own=True, about=_AUDIT)]

    async def audit(self, request: Request) -> Response:
        """List the newest lines of the audit log.

        A token sees the lines about its queues and targets; lines about neither only if it is valid for all queues.
        """
        lines = [line for line in await self._trail.lines() if _is_seen(line, request.caller)]
        return json_response(msgspec.json.encode(shapes.AuditLines(lines)))


def _is_seen(line: shapes.AuditLine, caller: Caller) -> bool:
    if caller.all_queues:
        return True
    name = line.queue or line.target
    return isinstance(name, str) and caller.sees(name)
