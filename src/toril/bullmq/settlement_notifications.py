"""Notifies other instances that jobs which they lease were settled by this one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from toril.core.errors import StoreError
from toril.redis.links import FollowingLink, KeyPlace, Links
from toril.redis.policy import StorePolicy
from toril.redis.resp import pack
from toril.redis.stored_entries import readable

_BLOCK_S = 5
_PATIENCE_S = 10.0
_RETRY_S = 0.25
# A notification that is not fetched by then is useless: its reader has ended, or has found out by itself.
_LIFE_MS = 60_000
_decode = msgspec.msgpack.Decoder(tuple[str, bytes]).decode


class RedisSettlementNotifications:
    """A list per instance, `toril:settled:{instance}`, of queues and job ids that this instance fetches."""

    def __init__(self, links: Links, policy: StorePolicy, instance_id: str) -> None:
        self._links = links
        self._key = _key(instance_id.encode())
        place = KeyPlace(links, self._key)
        self._following = FollowingLink(place, policy, name="toril:settled", patience_s=_PATIENCE_S)

    async def tell(self, instance: bytes, queue: str, job_id: bytes) -> None:
        """Notify an instance that a job was settled."""
        key = _key(instance)
        await self._links.of(key).pipeline(
            [pack("RPUSH", key, msgspec.msgpack.encode((queue, job_id))), pack("PEXPIRE", key, _LIFE_MS)]
        )

    async def follow(self, heard: Callable[[str, bytes], None]) -> None:
        """Listen until cancelled, on a separate connection, since listening blocks it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._following.run(), name="redis:settled")
            while True:
                try:
                    found = await self._following.call("BLPOP", self._key, _BLOCK_S)
                except StoreError:
                    await asyncio.sleep(_RETRY_S)
                    continue
                for queue, job_id in readable(self._key.decode(), () if found is None else found[1:], _decode):
                    heard(queue, job_id)


def _key(instance: bytes) -> bytes:
    return b"toril:settled:" + instance
