"""Connections to the masters of a Redis Cluster, one multiplexed connection each.

The map from slots to nodes is read again when a node replies that a key has moved, when a node cannot be reached, and
twice a second. BullMQ's scripts need all keys of a queue in one slot, so either the prefix or the queue's name has a
hash tag: `{bull}` or `{orders}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Coroutine, Iterable
from functools import lru_cache
from itertools import count
from typing import Any

import msgspec
import structlog
from redis.crc import key_slot

from toril.core.errors import StoreError, StoreUnavailable
from toril.core.metrics import UNMETERED
from toril.core.ports import Meter
from toril.redis.connection import PROBE, Link, Prepare
from toril.redis.policy import RedisAddress, StorePolicy
from toril.redis.resp import SlotElsewhere
from toril.redis.slot_link import SlotLink

log = structlog.get_logger(__name__)

_REFRESH_S = 0.5
"""A slot may be at another node although its old node still has a connection: it may be cut off."""
_ASK_S = 0.5
_RETRY_S = 0.25
_LEAST_BETWEEN_S = 0.1
_SILENT_S = 0.25
"""How long a node that has lost its slots may take to answer what it was sent before."""
_LINGER_S = 30.0
"""How long a node without slots stays connected: commands may wait for its reply, or a slot may be moving to it."""


Address = tuple[str, int]


class _Node(msgspec.Struct):
    """A connection to a node, and when it was last known to be needed (the event loop's time)."""

    link: Link
    task: asyncio.Task[None]
    needed_at: float


class ClusterLinks:
    """The connections of one process to a cluster.

    Args:
        seed: the address of one node; its user, password and TLS settings are used for all nodes.
        prepare: runs on each new connection.
    """

    def __init__(
        self,
        seed: RedisAddress,
        policy: StorePolicy,
        tasks: asyncio.TaskGroup,
        prepare: Prepare,
        meter: Meter = UNMETERED,
    ) -> None:
        self._seed = seed
        self._meter = meter
        self._policy = policy
        self._tasks = tasks
        self._prepare = prepare
        self._nodes: dict[Address, _Node] = {}
        self._ranges: list[tuple[int, int, Link]] = []
        self._ways: dict[int, SlotLink] = {}
        self._followers: weakref.WeakSet[Link] = weakref.WeakSet()
        self._asked_at = 0.0
        self._asking = asyncio.Lock()

    @property
    def command_timeout_s(self) -> float:
        """How long a command may take."""
        return self._policy.command_timeout_s

    def of(self, key: bytes) -> SlotLink:
        """Return a connection to the master that has this key."""
        slot = int(key_slot(key))
        way = self._ways.get(slot)
        if way is None:
            way = self._ways[slot] = SlotLink(self, slot)
        return way

    def address_of(self, key: bytes) -> RedisAddress:
        """Return the address of the master that has this key."""
        return self.owner(int(key_slot(key))).address

    def probe(self, key: bytes) -> str:
        """Return a key of the same node that may be written."""
        first, last, _ = self._range(int(key_slot(key)))
        return _key_in(first, last)

    def owner(self, slot: int) -> Link:
        """Return the connection to the master that has a slot."""
        return self._range(slot)[2]

    def _range(self, slot: int) -> tuple[int, int, Link]:
        for first, last, link in self._ranges:
            if first <= slot <= last:
                return first, last, link
        raise StoreUnavailable(f"no node of the Redis Cluster at {self._seed} is known to have slot {slot}")

    def named(self, fault: SlotElsewhere, by: Link) -> Link:
        """Return the connection to the node that another node has named; it may have no slots yet."""
        return self._node((fault.host or by.address.host, fault.port)).link

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run a coroutine as a task of these connections."""
        self._tasks.create_task(work)

    def group(self, key: bytes) -> int:
        """Return the key's slot."""
        return int(key_slot(key))

    def all(self) -> list[Link]:
        """Return the connections to all masters."""
        return list({id(link): link for _, _, link in self._ranges}.values())

    def follow(self, link: Link) -> None:
        """Make another connection anew, too, when its key is at another node."""
        self._followers.add(link)

    async def check(self) -> None:
        """Raise `StoreUnavailable` unless every master answers."""
        if not self._ranges:
            raise StoreUnavailable(f"the Redis Cluster at {self._seed} cannot be reached")
        for link in self.all():
            await link.call("PING")

    async def check_writable(self) -> None:
        """Raise `StoreError` unless every master accepts a write."""
        await self.check()
        for first, last, link in {id(link): (first, last, link) for first, last, link in self._ranges}.values():
            await link.check_writable(_key_in(first, last))

    async def run(self) -> None:
        """Keep the map up to date until cancelled."""
        while True:
            try:
                await self.refresh()
                await asyncio.sleep(_RETRY_S if self._troubled() else _REFRESH_S)
            except StoreError as exc:
                log.warning("cluster.refresh_failed", error=exc.message)
                await asyncio.sleep(_RETRY_S)

    def _troubled(self) -> bool:
        return not self._ranges or any(not link.is_up for _, _, link in self._ranges)

    async def refresh(self, told: SlotElsewhere | None = None) -> None:
        """Read the map from any node that replies, once for all concurrent callers, and at most ten times a second.

        The node in `told` is asked first: other nodes learn later that a slot has moved.
        """
        loop = asyncio.get_running_loop()
        called_at = loop.time()
        async with self._asking:
            if self._asked_at > called_at:
                return
            await asyncio.sleep(self._asked_at + _LEAST_BETWEEN_S - loop.time())
            self._asked_at = loop.time()
            self._take(await self._slots(told))

    async def _slots(self, told: SlotElsewhere | None) -> list[tuple[int, int, Address]]:
        links = [node.link for node in self._nodes.values()]
        if told is not None and told.host:
            first = self._node((told.host, told.port)).link
            with contextlib.suppress(StoreUnavailable):
                await first.up()
            links = [first, *links]
        for link in links:
            if link.is_up:
                with contextlib.suppress(StoreError, TimeoutError):
                    async with asyncio.timeout(_ASK_S):
                        return _masters(await link.call("CLUSTER", "SLOTS"), link.address.host)
        # No node is connected: ask the configured one, on a separate connection.
        link = Link(self._seed, self._policy, name="toril:seed")
        task = self._tasks.create_task(link.run(), name="redis:seed")
        try:
            return _masters(await link.call("CLUSTER", "SLOTS"), self._seed.host)
        finally:
            task.cancel()

    def _take(self, slots: Iterable[tuple[int, int, Address]]) -> None:
        masters = self.all()
        self._ranges = [(first, last, self._node(address).link) for first, last, address in slots]
        for link in masters:
            if link.is_up and all(link is not other for _, _, other in self._ranges):
                self.start(_left_if_silent(link))
        for link in list(self._followers):
            link.relocate("the slot of its key is at another node")
        before = asyncio.get_running_loop().time() - _LINGER_S
        for address in [address for address, node in self._nodes.items() if node.needed_at < before]:
            self._nodes.pop(address).task.cancel()

    def _node(self, address: Address) -> _Node:
        """Return a node, which stays connected until it has not been needed for a while."""
        now = asyncio.get_running_loop().time()
        node = self._nodes.get(address)
        if node is None:
            host, port = address
            where = msgspec.structs.replace(self._seed, host=host, port=port, path=None, db=0)
            link = Link(where, self._policy, prepare=self._prepare, meter=self._meter)
            task = self._tasks.create_task(link.run(), name=f"redis:{host}:{port}")
            node = self._nodes[address] = _Node(link, task, now)
        node.needed_at = now
        return node


async def _left_if_silent(link: Link) -> None:
    """Fail what waits for a node that has lost its slots and does not answer: it may be cut off or frozen."""
    try:
        async with asyncio.timeout(_SILENT_S):
            await link.call("PING")  # answered after all that was sent before
    except TimeoutError:
        link.reconnect("other nodes have its slots, and it does not answer")
    except StoreError:
        pass  # it has failed already


@lru_cache(1024)
def _key_in(first: int, last: int) -> str:
    """Return a key of these slots, to be written by `check_writable`."""
    return next(key for key in (f"{PROBE}:{number}" for number in count()) if first <= key_slot(key.encode()) <= last)


def _masters(reply: list[Any], asked: str) -> list[tuple[int, int, Address]]:
    """Return slot ranges and their masters from `CLUSTER SLOTS`. No host, or an empty one, means the asked node."""
    return [(first, last, ((master[0] or b"").decode() or asked, master[1])) for first, last, master, *_ in reply]
