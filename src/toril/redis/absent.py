"""The connections to Redis of a process that has none: every command is refused with `NoRedis`."""

from __future__ import annotations

from collections.abc import Sequence

from toril.core.errors import StoreError
from toril.redis.connection import Link
from toril.redis.policy import RedisAddress
from toril.redis.resp import Argument, Reply, SlotElsewhere


class NoRedis(StoreError):
    """This toril runs without Redis (redis: none): it has the delivery door alone."""

    code = "no_redis"
    status = 501


class AbsentRedis:
    """`Links` and `KeyLink` that refuse everything. Nothing is ever connected."""

    is_up = False
    server = None
    back_at = None

    def of(self, key: bytes) -> AbsentRedis:
        """Return this."""
        return self

    def address_of(self, key: bytes) -> RedisAddress:
        """Raise `NoRedis`."""
        raise NoRedis

    def probe(self, key: bytes) -> str:
        """Raise `NoRedis`."""
        raise NoRedis

    def group(self, key: bytes) -> int:
        """Return 0, as for a single server."""
        return 0

    def all(self) -> list[Link]:
        """Return nothing: there are no servers."""
        return []

    def follow(self, link: Link) -> None:
        """Do nothing: there is no master."""

    async def run(self) -> None:
        """Return at once: there is nothing to connect to."""

    async def refresh(self, told: SlotElsewhere | None = None) -> None:
        """Raise `NoRedis`."""
        raise NoRedis

    async def check(self) -> None:
        """Raise `NoRedis`."""
        raise NoRedis

    async def check_writable(self) -> None:
        """Raise `NoRedis`."""
        raise NoRedis

    async def up(self) -> None:
        """Raise `NoRedis`."""
        raise NoRedis

    async def call(self, *args: Argument) -> Reply:
        """Raise `NoRedis`."""
        raise NoRedis

    async def run_script(self, packed: bytes) -> Reply:
        """Raise `NoRedis`."""
        raise NoRedis

    def leave(self, packed: bytes) -> None:
        """Send nothing."""

    async def pipeline(self, commands: Sequence[bytes]) -> list[Reply]:
        """Raise `NoRedis`."""
        raise NoRedis

    async def transaction(self, commands: list[bytes]) -> list[Reply]:
        """Raise `NoRedis`."""
        raise NoRedis
