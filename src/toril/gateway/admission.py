"""Who is let in, and for how long: the one place that decides, for REST, event streams and sockets alike.

At the door, for each command on a socket, and once a second for those who stay: a token that is taken out of the
configuration, expires or loses the right ends what goes on with it. Called by `toril.gateway.app` and by the command
socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from toril.core.access import ANYBODY, Right
from toril.core.errors import RateLimited
from toril.core.ports.shared import RateLimits
from toril.gateway.auth import Tokens, fingerprint
from toril.gateway.routing import Access, Request, Route, SocketRoute, queue_at

RECHECK_S = 1.0


class _Stay(Struct, eq=False):
    """A stream or a socket that goes on, what it takes, and what ends it."""

    request: Request
    key: bytes
    demanded: tuple[tuple[Right | None, str | None], ...]
    end: Callable[[], object]


class Admission:
    """Lets callers in.

    Args:
        tokens: who may come at all.
        rates: counts the requests of those whose token has a limit.
    """

    def __init__(self, tokens: Tokens, rates: RateLimits) -> None:
        self._tokens = tokens
        self._rates = rates
        self._stays: set[_Stay] = set()

    def check(self, request: Request, route: Route | SocketRoute) -> None:
        """Who calls, and whether they may. Sets `request.caller`, also of those who may not.

        Raises:
            Unauthorized: nobody that is known.
            Forbidden: somebody that may not; the same whether or not the queue exists.
        """
        request.caller = caller = self._tokens.check(request.authorization)
        if not caller.everything:
            caller.demand(*_needed(request, route))

    async def spend(self, request: Request) -> None:
        """Count a request or a command, if the caller's token has a limit.

        Raises:
            RateLimited: there were too many.
        """
        limit = request.caller.rate_limit
        if limit is None:
            return
        wait_s = await self._rates.spend(request.caller.name, limit)
        if wait_s:
            raise RateLimited(retry_after_s=wait_s)

    async def command(self, request: Request, right: Right, queue: str) -> None:
        """Whether the caller of a socket that is open may do this now.

        Raises:
            Forbidden: it may not.
            RateLimited: there were too many requests and commands.
        """
        request.caller.demand(right, queue)
        await self.spend(request)

    @contextmanager
    def staying(self, request: Request, route: Route | SocketRoute, end: Callable[[], object]) -> Iterator[None]:
        """A stream or a socket goes on for the length of a block; `end()` is called once if it may not any more."""
        if route.access is not Access.TOKEN:
            yield
            return
        stay = _Stay(request, fingerprint(request.authorization), (_needed(request, route), *request.demanded), end)
        self._stays.add(stay)
        try:
            yield
        finally:
            self._stays.discard(stay)

    async def run(self) -> None:
        """Look again and again whether those who stay still may, until cancelled."""
        while True:
            await asyncio.sleep(RECHECK_S)
            self.recheck()

    def recheck(self) -> None:
        """Look now. Who may not stay has no rights from here on, whatever they send while they are seen out."""
        for stay in list(self._stays):
            caller = self._tokens.holder(stay.key)
            if caller is stay.request.caller:
                continue
            if caller is not None and all(caller.may(right, queue) for right, queue in stay.demanded):
                stay.request.caller = caller
            else:
                stay.request.caller = ANYBODY
                self._stays.discard(stay)
                stay.end()


def _needed(request: Request, route: Route | SocketRoute) -> tuple[Right | None, str | None]:
    place = queue_at(route.template)
    return route.right, None if place is None else request.segment(place)
