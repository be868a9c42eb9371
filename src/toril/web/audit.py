"""The audit log: one line for every request and command that changes something, also for those that are refused.

A line names the caller, the action, the queue and the result; never bodies or secrets.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toril.core.access import ANYBODY, Caller, Right
from toril.core.errors import InvalidRequest, TorilError, only_toril_error
from toril.web.access_control import Access
from toril.web.audit_trail import AuditTrail
from toril.web.request import DEMANDED

# These come by the thousand a second: a line for each would cost more than the work.
_TRAFFIC = frozenset({Right.JOBS_ADD, Right.JOBS_LEASE, Right.DELIVERIES_ADD})
_REFUSED = frozenset({401, 403})
_MOST_SHOWN = 200
_PLACES = ("queue", "target")


_LATER = "toril.audit"
"""A key of the scope: what a handler adds to the line, which is written once the response has ended."""
_ON_REFUSAL = "toril.audit_refusal"
"""A key of the scope: what writes the line of a request that has one only where it is refused."""
TOOL = "toril.tool"
"""A key of the scope: the tool that makes the request for an agent."""


class AuditLog:
    """Writes the lines: at level info, except allowed traffic at debug. Lines at info are also kept in the trail."""

    def __init__(self, trail: AuditTrail | None = None) -> None:
        self._trail = trail
        # Bound once: looking the logger up for each request costs 2 µs, to find that nothing is to be written.
        self._log: Any = structlog.get_logger(__name__).bind()

    @property
    def has_traffic(self) -> bool:
        """True if allowed traffic is written too, as the log level is now."""
        shown: bool = self._log.is_enabled_for(logging.DEBUG)
        return shown

    def request(self, scope: Scope, status: int) -> None:
        """Write the line of a request that was answered with this status, if it may have changed something."""
        route = scope["route"]
        if not is_change(route):
            return
        quiet = is_traffic(route)
        if quiet and status not in _REFUSED and not self.has_traffic:
            return
        named: dict[str, str | int] = {name: _shown(_param(scope, name)) for _, name in route.template.params}
        if route.template.names.isdisjoint(_PLACES) and DEMANDED in scope:
            right, name = scope[DEMANDED][0]
            named[_place_of(right)] = _shown(name)
        named |= scope.get(_LATER, {})
        if TOOL in scope:
            named["tool"] = scope[TOOL]
        self._write(f"{route.method} {route.path}", scope.get("user", ANYBODY), status, named, quiet=quiet)

    def command(self, fn: str, caller: Caller, right: Right, queue: str, status: int) -> None:
        """Write the line of a command that came over a socket."""
        if not right.endswith(":read"):
            self._write(f"socket {fn}", caller, status, {"queue": _shown(queue)}, quiet=right in _TRAFFIC)

    def _write(self, action: str, caller: Caller, status: int, named: dict[str, str | int], *, quiet: bool) -> None:
        who = None if caller is ANYBODY else caller.name
        line = {"caller": who, "action": action, "status": status, **named}
        if quiet and status not in _REFUSED:
            self._log.debug("audit", **line)
            return
        self._log.info("audit", **line)
        if self._trail is not None:
            self._trail.note(line)


def report_later(scope: Scope) -> dict[str, int]:
    """Write a request's line when its response has ended, also if the caller hangs up before that.

    Returns the counts that are added to the line, to be filled until then.
    """
    added: dict[str, int] = scope.setdefault(_LATER, {})
    return added


def is_change(route: Any) -> bool:
    """Return True if requests for a route change something, and need a token."""
    return route.method != "GET" and route.access is not Access.OPEN


def is_traffic(route: Any) -> bool:
    """Return True if requests for a route are too many for a line each, or make others that have their own."""
    return (route.right in _TRAFFIC and not route.by_hand) or route.access is Access.LOCK or route.relays


def _place_of(right: Right) -> str:
    """Return what a right is for: a target, or a queue."""
    return "target" if right.startswith(("deliveries:", "targets:")) else "queue"


def _param(scope: Scope, name: str) -> str:
    try:
        text: str = scope["path_params"][name]
    except InvalidRequest:
        return ""
    return text


def _shown(text: str) -> str:
    """Return a caller's text, escaped and cut so that it can neither break a line nor fill the log."""
    return text if len(text) <= _MOST_SHOWN and text.isprintable() else ascii(text[:_MOST_SHOWN])


class Audit:
    """Middleware of a route: writes the line of a request before its response is sent, or after it on demand."""

    def __init__(self, app: ASGIApp, lines: AuditLog) -> None:
        self.app = app
        self._lines = lines

    @staticmethod
    def applies_to(route: Any) -> bool:
        """Return True if requests for a route change something; commands over sockets are logged separately."""
        return is_change(route)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if is_traffic(scope["route"]) and not self._lines.has_traffic:
            scope[_ON_REFUSAL] = self._lines.request
            return self.app(scope, receive, send)
        return self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        lines = self._lines
        later: list[int] = []

        def at_head(status: int) -> None:
            if _LATER in scope:
                later.append(status)
            else:
                lines.request(scope, status)

        try:
            await self.app(scope, receive, _at_head(send, at_head))
        except Exception as exc:
            if not later:
                lines.request(scope, _status_of(exc))
            raise
        finally:
            if later:
                lines.request(scope, later[0])


def note_refusal(scope: Scope, exc: Exception) -> None:
    """Write the line of a request that failed, where it has one only then; what handles exceptions calls it.

    A coroutine around each request of the traffic, to catch what is rare, would cost 2 % of an add.
    """
    tell: Callable[[Scope, int], None] | None = scope.get(_ON_REFUSAL)
    if tell is not None:
        tell(scope, _status_of(exc))


def _status_of(exc: Exception) -> int:
    error = only_toril_error(exc)
    return TorilError.status if error is None else error.status


def _at_head(send: Send, tell: Callable[[int], None]) -> Send:
    """Return `send`, which tells a response's status before it is sent."""

    def sending(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            tell(message["status"])
        return send(message)

    return sending
