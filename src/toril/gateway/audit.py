"""The audit log: one line for every request and command that changes something, also for those that are refused.

Says who, what, to which queue, and what came of it; never bodies, never secrets. Called by `toril.gateway.app` and by
the command socket.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

from toril.core.access import ANYBODY, Caller, Right
from toril.core.errors import InvalidRequest
from toril.gateway.routing import Access, Request, Route

# What comes by the thousand a second: a line for each would cost more than the work.
_TRAFFIC = frozenset({Right.JOBS_ADD, Right.JOBS_LEASE, Right.DELIVERIES_ADD})
_REFUSED = frozenset({401, 403})
_MOST_SHOWN = 200


class Audit:
    """Writes the lines: at info, but traffic that is let in at debug."""

    def __init__(self) -> None:
        # Bound once: looking the logger up for each request costs 2 µs, to find that nothing is to be written.
        self._log: Any = structlog.get_logger(__name__).bind()

    def request(self, request: Request, route: Route, status: int) -> None:
        """A request has been answered."""
        if route.method == "GET" or route.access is Access.OPEN:
            return
        quiet = route.right in _TRAFFIC or route.access is Access.LOCK
        if quiet and status not in _REFUSED and not self._log.is_enabled_for(logging.DEBUG):
            return
        named = {
            part[1:-1]: _segment(request, place)
            for place, part in enumerate(route.template.split("/")[1:])
            if part.startswith("{")
        }
        self._write(f"{route.method} {route.template}", request.caller, status, named, quiet=quiet)

    def command(self, fn: str, caller: Caller, right: Right, queue: str, status: int) -> None:
        """A command that came over a socket has been answered."""
        if not right.endswith(":read"):
            self._write(f"socket {fn}", caller, status, {"queue": queue}, quiet=right in _TRAFFIC)

    def _write(self, action: str, caller: Caller, status: int, named: dict[str, str], *, quiet: bool) -> None:
        who = None if caller is ANYBODY else caller.name
        write = self._log.debug if quiet and status not in _REFUSED else self._log.info
        write("audit", caller=who, action=action, status=status, **{key: _shown(text) for key, text in named.items()})


def _segment(request: Request, place: int) -> str:
    try:
        return request.segment(place)
    except InvalidRequest:
        return ""


def _shown(text: str) -> str:
    """A text of the caller's that can neither break a line nor fill the log."""
    return text if len(text) <= _MOST_SHOWN and text.isprintable() else ascii(text[:_MOST_SHOWN])
