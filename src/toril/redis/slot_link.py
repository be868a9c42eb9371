"""A connection to the node of a Redis Cluster that has one slot, also while that slot is being moved to another node.

A command that a node refuses because of the slot has done nothing, so it is sent again to the node that has the slot:

- `MOVED`: another node has the slot now. The map is read again, and the named node gets the command.
- `ASK`: the slot is being moved, and the node does not have the key. The named node gets the command after `ASKING`.
  Scripts and transactions wait instead: they touch keys that they do not name (a job's lock), which may still be on
  the old node, and the new one would treat them as missing.
- `TRYAGAIN`: the node has only some of the keys. The command waits until they are together again.

Waiting ends after the time that a command may take, and delays no commands of other slots.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Protocol

from toril.core.errors import StoreError, StoreUnavailable
from toril.redis.connection import Link
from toril.redis.resp import Argument, KeyMigrated, KeysApart, Reply, SlotElsewhere, SlotMoved, pack, settled

_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.1
_LOOK_AGAIN_S = 0.1
"""How long to wait for a node before looking whether another one has the slot now."""
_ASKING = pack("ASKING")
_NOT_NOW = (SlotElsewhere, KeysApart)

Attempt = Callable[[Link, bool], Awaitable[Reply]]
"""A function that sends commands on a connection, after ASKING if the second argument is true."""


class Nodes(Protocol):
    """What a `SlotLink` needs of the cluster's connections."""

    @property
    def command_timeout_s(self) -> float:
        """How long a command may take."""
        ...

    def owner(self, slot: int) -> Link:
        """Return the connection to the master that has a slot.

        Raises:
            StoreUnavailable: the master is not known yet.
        """
        ...

    def named(self, fault: SlotElsewhere, by: Link) -> Link:
        """Return the connection to the node that another node has named."""
        ...

    async def refresh(self, told: SlotElsewhere | None = None) -> None:
        """Read the map of the slots again."""
        ...

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run a coroutine as a task of these connections."""
        ...


class SlotLink:
    """A `KeyLink` for the keys of one slot."""

    def __init__(self, nodes: Nodes, slot: int) -> None:
        self._nodes = nodes
        self._slot = slot

    @property
    def is_up(self) -> bool:
        """As `KeyLink.is_up`."""
        return self._nodes.owner(self._slot).is_up

    @property
    def server(self) -> str | None:
        """As `KeyLink.server`."""
        return self._nodes.owner(self._slot).server

    @property
    def back_at(self) -> float | None:
        """As `KeyLink.back_at`."""
        return self._nodes.owner(self._slot).back_at

    async def up(self) -> None:
        """As `KeyLink.up`. Another node may take the place of one that is down meanwhile."""
        if not self._nodes.owner(self._slot).is_up:
            await self._owner_up()

    async def call(self, *args: Argument) -> Reply:
        """As `KeyLink.call`."""
        return await self._sent(_alone(pack(*args)), asks=True)

    async def run_script(self, packed: bytes) -> Reply:
        """As `KeyLink.run_script`."""
        return await self._sent(_alone(packed), asks=False)

    def leave(self, packed: bytes) -> None:
        """As `KeyLink.leave`."""
        link = self._nodes.owner(self._slot)
        link.send(packed).add_done_callback(lambda reply: self._left(packed, link, reply))

    async def pipeline(self, commands: Sequence[bytes]) -> list[Reply]:
        """As `KeyLink.pipeline`. Commands that a node refused because of the slot are sent again, in order."""
        link = self._nodes.owner(self._slot)
        if not link.is_up:
            link = await self._owner_up()
        replies = link.send_many(b"".join(commands), len(commands), len(commands))
        try:
            return await settled(replies)
        except _NOT_NOW:
            until = self._until()
        return [
            await self._again(_alone(command), fault, link, until, asks=True)
            if isinstance(fault := reply.exception(), _NOT_NOW)
            else reply.result()
            for command, reply in zip(commands, replies, strict=True)
        ]

    async def transaction(self, commands: list[bytes]) -> list[Reply]:
        """As `KeyLink.transaction`."""

        async def attempt(link: Link, _: bool) -> list[Reply]:
            return await link.transaction(commands)

        replies: list[Reply] = await self._sent(attempt, asks=False)
        return replies

    async def _sent(self, attempt: Attempt, *, asks: bool) -> Reply:
        link = self._nodes.owner(self._slot)
        if not link.is_up:
            link = await self._owner_up()
        try:
            return await attempt(link, False)
        except _NOT_NOW as exc:
            fault = exc
        return await self._again(attempt, fault, link, self._until(), asks=asks)

    async def _owner_up(self) -> Link:
        """Wait for a connection to the node that has the slot, whichever that is by then."""
        until = self._until()
        while True:
            link = self._nodes.owner(self._slot)
            try:
                await link.up(_LOOK_AGAIN_S)
            except StoreUnavailable:
                if asyncio.get_running_loop().time() >= until:
                    raise
            else:
                return link

    async def _again(
        self, attempt: Attempt, fault: SlotElsewhere | KeysApart, link: Link, until: float, *, asks: bool
    ) -> Reply:
        """Repeat commands that `link` has refused, until they are done or the time `until` has come.

        Args:
            asks: True if they may be sent after ASKING to the node that the slot is being moved to.
        """
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            asking = False
            if isinstance(fault, SlotMoved):
                link = self._nodes.named(fault, link)
                if link is not self._nodes.owner(self._slot):
                    await self._nodes.refresh(fault)
            elif asks and isinstance(fault, KeyMigrated):
                link, asking = self._nodes.named(fault, link), True
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                link = self._nodes.owner(self._slot)
            try:
                return await attempt(link, asking)
            except _NOT_NOW as exc:
                if loop.time() >= until:
                    raise
                fault = exc

    def _left(self, packed: bytes, link: Link, reply: asyncio.Future[Reply]) -> None:
        fault = None if reply.cancelled() else reply.exception()
        if isinstance(fault, _NOT_NOW):
            self._nodes.start(self._leave_again(packed, fault, link))

    async def _leave_again(self, packed: bytes, fault: SlotElsewhere | KeysApart, link: Link) -> None:
        with contextlib.suppress(StoreError):
            await self._again(_alone(packed), fault, link, self._until(), asks=True)

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._nodes.command_timeout_s


def _alone(packed: bytes) -> Attempt:
    """Return an attempt that sends one command."""

    async def attempt(link: Link, asking: bool) -> Reply:
        if not asking:
            return await link.run_script(packed)
        await link.up()
        (reply,) = link.send_many(_ASKING + packed, 2, 1)
        return await reply

    return attempt
