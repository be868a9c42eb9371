"""The interface of connections to Redis, be it a single server or a cluster.

All calls go through `Links.of`, which follows keys to other nodes of a cluster, so callers need not know that slots
move. Commands that block have a `FollowingLink`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from msgspec import Struct

from toril.core.errors import StoreUnavailable
from toril.core.metrics import UNMETERED
from toril.core.ports import Meter
from toril.redis.connection import Link, Prepare
from toril.redis.policy import RedisAddress, StorePolicy
from toril.redis.resp import Argument, Reply, SlotElsewhere, SlotMoved, Wire


class KeyLink(Protocol):
    """A connection to the node that has a key. In a cluster, commands follow a key that has moved.

    Every method raises `StoreUnavailable` if that node is not known, or cannot be reached in time.
    """

    @property
    def is_up(self) -> bool:
        """True if commands can be sent now."""
        ...

    @property
    def server(self) -> str | None:
        """The id of the run of the server that it is connected to; None if that is not known."""
        ...

    @property
    def back_at(self) -> float | None:
        """The event loop's time at which the server came back last; None where it has never been away."""
        ...

    async def up(self) -> None:
        """Wait for a connection, as long as a command may take."""
        ...

    def call(self, *args: Argument) -> Awaitable[Reply]:
        """Send one command and return its reply."""
        ...

    def run_script(self, packed: bytes) -> Awaitable[Reply]:
        """Send one packed call of a script that also touches keys that it does not name, and return its reply."""
        ...

    def leave(self, packed: bytes) -> None:
        """Send one packed command before the next command that is sent, and ignore its reply."""
        ...

    async def pipeline(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send packed commands in one piece and return all replies; raise the first error reply."""
        ...

    async def transaction(self, commands: list[bytes]) -> list[Reply]:
        """Run packed commands as MULTI/EXEC; return the replies of EXEC, with error replies as exceptions.

        Raises:
            StoreError: Redis refused to queue a command; none was run.
        """
        ...


class Links(Protocol):
    """Connections to a single server, or to the nodes of a cluster."""

    def of(self, key: bytes) -> KeyLink:
        """Return a connection to the node that has this key."""
        ...

    def address_of(self, key: bytes) -> RedisAddress:
        """Return the address of the node that has this key.

        Raises:
            StoreUnavailable: the node is not known yet.
        """
        ...

    def probe(self, key: bytes) -> str:
        """Return a key of the node that has this key, which may be written to try something."""
        ...

    def group(self, key: bytes) -> int:
        """Return a key's group: a cluster's slot, or 0 on a single server. One command may name keys of a group."""
        ...

    def all(self) -> list[Link]:
        """Return the connections to all nodes that have keys."""
        ...

    def follow(self, link: Link) -> None:
        """Make another connection anew, too, when what it is connected to is no longer the master."""
        ...

    async def refresh(self, told: SlotElsewhere | None = None) -> None:
        """Read again which node has which keys, if possible from the node in `told`."""
        ...

    async def check(self) -> None:
        """Raise `StoreUnavailable` unless every server answers."""
        ...

    async def check_writable(self) -> None:
        """Raise `StoreError` unless every server accepts a write."""
        ...


class KeyPlace(Struct, frozen=True):
    """A key, and the connections that know which node has it."""

    links: Links
    key: bytes


class FollowingLink(Link):
    """A connection for commands that block, to the node that has one key. It follows the key to another node.

    Args:
        place: the key that the commands are about.
        policy: timeouts and backoff.
        name: the name for `CLIENT SETNAME`.
        patience_s: how long a command may take.
        prepare: runs on each new connection before any other command.
        meter: counts reconnects.
    """

    def __init__(
        self,
        place: KeyPlace,
        policy: StorePolicy,
        *,
        name: str,
        patience_s: float,
        prepare: Prepare | None = None,
        meter: Meter = UNMETERED,
    ) -> None:
        super().__init__(
            lambda: place.links.address_of(place.key),
            policy,
            name=name,
            prepare=prepare,
            patience_s=patience_s,
            meter=meter,
        )
        self._links = place.links
        self._key = place.key
        place.links.follow(self)

    async def call(self, *args: Argument) -> Reply:
        """Send one command and return its reply. If the key has moved, this raises, and connects to the new node."""
        try:
            return await super().call(*args)
        except SlotMoved as exc:
            await self._links.refresh(exc)
            self.relocate("the keys have moved to another node")  # where that has not been done by the new map
            raise

    async def _connect(self) -> Wire:
        try:
            self._links.address_of(self._key)
        except StoreUnavailable:  # at the start the map of a cluster is not read yet
            await self._links.refresh()
        return await super()._connect()
