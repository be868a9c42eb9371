"""Confirmations that what was written is on disk, or with replicas, before it is acknowledged.

Redis waits for both with a command that blocks its connection (`WAITAOF`, `WAIT`), so each server has one more
connection for it. There one small key is written, which comes after all that is to be confirmed, and waited for: all
that ask meanwhile share the next wait. Only the server that took a write can confirm it. Another one that took its
place may lack it, so every connection knows the id of its server's run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from msgspec import Struct

from toril.core.errors import ConnectionLost, StoreError
from toril.redis.connection import Link
from toril.redis.links import KeyLink, Links
from toril.redis.policy import RedisAddress, StorePolicy
from toril.redis.resp import pack

log = structlog.get_logger(__name__)
T = TypeVar("T")
FailingOver = Callable[[], Awaitable[bool]]

_CHECKED_EVERY_S = 5.0
_IDLE_S = 60.0
_KEPT_MS = 1000
_FAILING_OVER = "the Sentinels are making another server the master"


class Unconfirmed(ConnectionLost):
    """It may have been written, but was not confirmed as `acknowledge` asks. `why` is the cause alone."""

    code = "unconfirmed"

    def __init__(self, why: str) -> None:
        super().__init__(f"It may have been written, but that was not confirmed: {why}")
        self.why = why


class PlannedWrite(Struct, frozen=True):
    """A key that is about to be written, and the id of its server's run before that."""

    key: bytes
    server: str | None


class Confirmations:
    """Confirms writes as the policy's `acknowledge` asks. With `memory` nothing is done.

    Args:
        links: the connections on which the writes are made.
        policy: what confirms a write, and how long that may take.
        tasks: run the connections that wait.
        always: a key whose node is checked even if nothing is written there.
        failing_over: returns True while Sentinels are making another server the master; None without Sentinels.
    """

    def __init__(
        self,
        links: Links,
        policy: StorePolicy,
        tasks: asyncio.TaskGroup,
        always: bytes,
        failing_over: FailingOver | None = None,
    ) -> None:
        self._links = links
        self._policy = policy
        self._tasks = tasks
        self._always = always
        self._failing_over = failing_over if policy.acknowledge.kind == "replicas" else None
        self._servers: dict[RedisAddress, tuple[_Server, asyncio.Task[None]]] = {}
        self.fault: str | None = None
        """Why the last check could not be confirmed; None if it was, or there was none yet."""

    @property
    def wanted(self) -> bool:
        """True if writes are confirmed before they are acknowledged."""
        return self._policy.acknowledge.kind != "memory"

    async def after(self, key: bytes, write: Callable[[], Awaitable[T]]) -> T:
        """Make a write to the node that has this key, and return its result when it is confirmed.

        Raises:
            Unconfirmed: it may have been written, but was not confirmed in time.
        """
        if not self.wanted:
            return await write()
        written = await self.before(key)
        result = await write()
        await self.confirm(written)
        return result

    async def before(self, key: bytes) -> PlannedWrite:
        """Return what `confirm` has to know of the server that has this key, before it is written there.

        Raises:
            StoreUnavailable: that server cannot be reached; nothing was written.
        """
        if not self.wanted:
            return PlannedWrite(key, None)
        link = self._links.of(key)
        if link.server is None:
            await link.up()
        return PlannedWrite(key, link.server)

    async def confirm(self, written: PlannedWrite) -> None:
        """Return when what was written to this server since then is confirmed by that run of it.

        Raises:
            Unconfirmed: it may have been written, but was not confirmed in time.
        """
        if not self.wanted:
            return
        try:
            await self._confirm(written.key, self._links.of(written.key), written.server)
        except Unconfirmed:
            raise
        except StoreError as exc:  # whatever else is wrong: it may have been written
            raise Unconfirmed(exc.message) from exc

    async def _confirm(self, key: bytes, link: KeyLink, before: str | None) -> None:
        server = self._server(key)
        if before is None or link.server != before:
            raise Unconfirmed("the connection to Redis was made anew meanwhile")
        await server.confirmed()
        # Another server may have taken its place, without what was written.
        if server.link.server != before:
            raise Unconfirmed("another server has taken the place of the one that was written to")

    async def run(self) -> None:
        """Check every few seconds whether writes can be confirmed, until cancelled."""
        while self.wanted:
            told, self.fault = self.fault, await self._checked()
            if self.fault is not None and self.fault != told:
                log.error("acknowledge.not_possible", acknowledge=str(self._policy.acknowledge), error=self.fault)
            await asyncio.sleep(_CHECKED_EVERY_S)

    async def _checked(self) -> str | None:
        before = asyncio.get_running_loop().time() - _IDLE_S
        for address in [address for address, (server, _) in self._servers.items() if server.asked_at < before]:
            self._servers.pop(address)[1].cancel()
        try:
            self._server(self._always)
            for server, _ in list(self._servers.values()):
                await server.confirmed(asked=False)
        except Unconfirmed as exc:
            return None if exc.why == _FAILING_OVER else exc.why
        except StoreError:
            return None  # that Redis is away is told elsewhere
        return None

    def _server(self, key: bytes) -> _Server:
        address = self._links.address_of(key)
        found = self._servers.get(address)
        if found is None:
            server = _Server(address, self._policy, self._links.probe(key), self._failing_over)
            found = self._servers[address] = server, self._tasks.create_task(server.link.run(), name="redis:confirming")
        return found[0]


class _Server:
    """The waits at one server, for writes before a key of it that is written for this."""

    def __init__(
        self, address: RedisAddress, policy: StorePolicy, key: str, failing_over: FailingOver | None = None
    ) -> None:
        patience_s = policy.acknowledge_timeout_s + policy.command_timeout_s
        self.link = Link(address, policy, name="toril:confirming", patience_s=patience_s)
        self.asked_at = asyncio.get_running_loop().time()
        self._acknowledge = policy.acknowledge
        self._failing_over = failing_over
        wait = policy.acknowledge.command(round(policy.acknowledge_timeout_s * 1000))
        self._commands = [pack("SET", key, "1", "PX", _KEPT_MS), pack(*wait)]
        self._next: asyncio.Future[None] | None = None
        self._waiting: asyncio.Task[None] | None = None

    async def confirmed(self, *, asked: bool = True) -> None:
        """Return when all that this server has written until now is confirmed. `asked` is False for a mere check.

        Raises:
            Unconfirmed: it is not, in time.
        """
        loop = asyncio.get_running_loop()
        if asked:
            self.asked_at = loop.time()
        if self._next is None:
            self._next = loop.create_future()
        following = self._next
        if self._waiting is None or self._waiting.done():
            self._waiting = loop.create_task(self._wait())
        await asyncio.shield(following)

    async def _wait(self) -> None:
        while self._next is not None:
            asked, self._next = self._next, None
            why: str | None = "toril is ending"
            try:
                why = await self._shortfall()
            finally:
                if why is None:
                    asked.set_result(None)
                else:
                    asked.set_exception(Unconfirmed(why))
                    asked.exception()  # counts as seen: those who asked may be gone

    async def _shortfall(self) -> str | None:
        """Wait once; return what is missing, or None."""
        try:
            await self.link.up()
            _, reply = await self.link.pipeline(self._commands)
        except StoreError as exc:
            return exc.message
        why = self._acknowledge.shortfall(reply)
        # Asked behind the wait: a failover that begins later chooses the replica that has received most.
        if why is None and self._failing_over is not None and await self._failing_over():
            return _FAILING_OVER
        return why
