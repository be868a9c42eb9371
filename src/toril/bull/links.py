"""What the rest of toril may ask of its connections to Redis, be it one server or a cluster.

`Links.of` is the one way to call: in a cluster a command goes after a key that has moved by itself, so its callers
need not know that slots move. Commands that block have a `FollowingLink`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from toril.bull.connection import Link, Prepare
from toril.bull.wire import Argument, Reply, SlotElsewhere, SlotMoved, Wire
from toril.core.errors import StoreUnavailable
from toril.core.metrics import UNMETERED
from toril.core.policy import RedisAddress, StorePolicy
from toril.core.ports.shared import Meter


class KeyLink(Protocol):
    """The way to the node that has a key. In a cluster, a command goes after a key that has moved by itself.

    Everything raises `StoreUnavailable` where that node is not known, or cannot be reached in time.
    """

    @property
    def is_up(self) -> bool:
        """Whether commands can be sent now."""
        ...

    async def up(self) -> None:
        """Wait for a connection, as long as a command may take."""
        ...

    async def call(self, *args: Argument) -> Reply:
        """Send one command and wait for its reply."""
        ...

    async def run_script(self, packed: bytes) -> Reply:
        """Send one packed call of a script that also touches keys that it does not name, and wait for its reply."""
        ...

    def leave(self, packed: bytes) -> None:
        """Send one packed command before whatever is sent next; its reply is not looked at."""
        ...

    async def pipeline(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send packed commands as one piece and wait for all replies; the first error reply is raised."""
        ...

    async def transaction(self, commands: list[bytes]) -> list[Reply]:
        """Run packed commands as MULTI/EXEC; the replies of EXEC, error replies among them as exceptions.

        Raises:
            StoreError: Redis refused to queue a command; none was run.
        """
        ...


class Links(Protocol):
    """Connections to one server, or to the nodes of a cluster."""

    def of(self, key: bytes) -> KeyLink:
        """The way to the node that has this key."""
        ...

    def address_of(self, key: bytes) -> RedisAddress:
        """The address of the node that has this key.

        Raises:
            StoreUnavailable: which node that is, is not known yet.
        """
        ...

    def group(self, key: bytes) -> int:
        """Keys of one group can be named in one command: a cluster's slot, or 0 on one server."""
        ...

    def all(self) -> list[Link]:
        """The connections to every node that has keys."""
        ...

    async def refresh(self, told: SlotElsewhere | None = None) -> None:
        """Learn anew which node has which keys, if possible from the one that was `told` of."""
        ...

    async def check(self) -> None:
        """Raise `StoreUnavailable` unless every server answers."""
        ...

    async def check_writable(self) -> None:
        """Raise `StoreError` unless every server takes a write."""
        ...


class KeyPlace(Struct, frozen=True):
    """A key, and the connections that know which node has it."""

    links: Links
    key: bytes


class FollowingLink(Link):
    """A connection for commands that block, to the node that has one key. Where the key moves, it follows.

    Args:
        place: the key that the commands are about.
        policy: timeouts and backoff.
        name: what `CLIENT SETNAME` gets.
        patience_s: how long a command may take.
        prepare: runs on each new connection before anybody else may use it.
        meter: told when the connection was made again.
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

    async def call(self, *args: Argument) -> Reply:
        """Send one command and wait for its reply. When the key has moved, this raises, and connects to its node."""
        try:
            return await super().call(*args)
        except SlotMoved as exc:
            await self._links.refresh(exc)
            self.reconnect("the keys have moved to another node")
            raise

    async def _connect(self) -> Wire:
        try:
            self._links.address_of(self._key)
        except StoreUnavailable:  # as at the start, when the map of a cluster has yet to be read
            await self._links.refresh()
        return await super()._connect()
