"""Authentication and access control, in one place for requests, event streams and sockets.

A request is checked before its handler runs, a command when it comes over a socket, and streams and sockets once a
second: a token that is taken out of the configuration, expires or loses the right ends the
streams and sockets that use it.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct
from starlette.types import ASGIApp, Receive, Scope, Send

from toril.core.access import ANYBODY, Caller, Right
from toril.core.errors import RateLimited, ShuttingDown
from toril.core.ports import RateLimits
from toril.core.redaction import Redaction
from toril.web.auth import Tokens, fingerprint, socket_authorization
from toril.web.request import AUTHORIZATION, DEMANDED, REDACTION, Connection, authorization_of

RECHECK_S = 1.0
_CONTROL = "toril.access_control"


class Access(enum.Enum):
    """The kind of token that a route needs."""

    OPEN = "everybody"
    TOKEN = "a caller with an API token"  # noqa: S105 - a description
    LOCK = "the worker that holds the job's lock"


class _Stay(Struct, eq=False):
    """An open stream or socket, the rights that it needs, and the function that ends it."""

    scope: Scope
    key: bytes
    demanded: tuple[tuple[Right | None, str | None], ...]
    end: Callable[[], object]


class AccessControl:
    """Checks the current rights of callers.

    While it is `draining`, no new work is taken: routes that need an API token are refused. A worker may still report
    on the jobs that it holds.

    Args:
        tokens: the tokens that are valid.
        rates: counts the requests of callers whose token has a limit.
        redact: paths of what callers without the right `payloads:read` do not see, beside the usual headers.
    """

    def __init__(self, tokens: Tokens, rates: RateLimits, redact: Iterable[str] = ()) -> None:
        self.draining = False
        self._tokens = tokens
        self._rates = rates
        self.redaction = Redaction(redact)
        self._stays: set[_Stay] = set()

    def check(self, scope: Scope) -> Caller:
        """Identify the caller, and check that it may use the route. Sets `scope["user"]` in either case.

        Raises:
            Unauthorized: the token is not known.
            Forbidden: the token has not the right; the same whether or not the queue exists.
        """
        caller = scope["user"] = self._tokens.check(authorization_of(scope))
        if not caller.everything:
            caller.demand(*_needed(scope))
        return caller

    async def spend(self, caller: Caller) -> None:
        """Count a request or a command, if the caller's token has a limit.

        Raises:
            RateLimited: there were too many.
        """
        limit = caller.rate_limit
        if limit is None:
            return
        wait_s = await self._rates.spend(caller.name, limit)
        if wait_s:
            raise RateLimited(retry_after_s=wait_s)

    async def command(self, connection: Connection, right: Right, queue: str) -> None:
        """Check that the caller of an open socket may send this command now, and count it.

        Raises:
            Forbidden: the caller has not the right.
            RateLimited: there were too many requests and commands.
        """
        connection.caller.demand(right, queue)
        await self.spend(connection.caller)

    @contextmanager
    def staying(self, scope: Scope, end: Callable[[], object]) -> Iterator[None]:
        """Watch a stream or a socket during a block; call `end()` once if it has to end."""
        if scope["route"].access is not Access.TOKEN:
            yield
            return
        demanded = (_needed(scope), *scope.get(DEMANDED, ()))
        stay = _Stay(scope, fingerprint(authorization_of(scope)), demanded, end)
        self._stays.add(stay)
        try:
            yield
        finally:
            self._stays.discard(stay)

    async def run(self) -> None:
        """Recheck the streams and sockets every second, until cancelled."""
        while True:
            await asyncio.sleep(RECHECK_S)
            self.recheck()

    def recheck(self) -> None:
        """Check all open sockets and streams now. A caller without rights is refused until its socket is closed."""
        for stay in list(self._stays):
            caller = self._tokens.holder(stay.key)
            if caller is stay.scope["user"]:
                continue
            if caller is not None and all(caller.may(right, queue) for right, queue in stay.demanded):
                stay.scope["user"] = caller
            else:
                stay.scope["user"] = ANYBODY
                self._stays.discard(stay)
                stay.end()


class Authentication:
    """Middleware of a route: lets requests pass that have the right that the route needs.

    A lock token is compared in the handler, which knows the job.
    """

    def __init__(self, app: ASGIApp, control: AccessControl) -> None:
        self.app = app
        self._control = control

    @staticmethod
    def applies_to(route: Any) -> bool:
        """Return True if a route needs an API token."""
        return route.access is Access.TOKEN

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request or socket."""
        if scope["route"].token_in_url:
            _take_token_from_url(scope)
        scope[_CONTROL] = self._control
        scope[REDACTION] = self._control.redaction
        caller = self._control.check(scope)
        if self._control.draining:
            raise ShuttingDown
        if caller.rate_limit is None:
            return self.app(scope, receive, send)
        return self._serve_limited(caller, scope, receive, send)

    async def _serve_limited(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        await self._control.spend(caller)
        await self.app(scope, receive, send)


def _take_token_from_url(scope: Scope) -> None:
    given = authorization_of(scope)
    if scope["type"] == "websocket":
        scope[AUTHORIZATION] = socket_authorization(given, Connection(scope).query(), scope["subprotocols"])
    elif given is None:
        scope[AUTHORIZATION] = socket_authorization(None, Connection(scope).query(), ())


def _needed(scope: Scope) -> tuple[Right | None, str | None]:
    """Return the right that a request needs, and the queue or target that it needs it on."""
    route: Any = scope["route"]
    name = route.right_on
    return route.right, None if name is None else scope["path_params"][name]


async def admit(connection: Connection, right: Right, queue: str) -> None:
    """Check one command that came over an open socket; raises as `AccessControl.command`."""
    control: AccessControl = connection.scope[_CONTROL]
    await control.command(connection, right, queue)


@contextmanager
def staying(scope: Scope, end: Callable[[], object]) -> Iterator[None]:
    """Watch a stream or a socket as `AccessControl.staying`, if its route has access control."""
    control: AccessControl | None = scope.get(_CONTROL)
    if control is None:
        yield
        return
    with control.staying(scope, end):
        yield
