"""A command that waits for a node which is down goes to the one that takes its place."""

import asyncio
from typing import Any

import pytest

from toril.core.errors import StoreUnavailable
from toril.redis.slot_link import SlotLink


class FakeNode:
    """A connection to a node, up or down."""

    def __init__(self, name: str, *, is_up: bool) -> None:
        self.name = name
        self.is_up = is_up
        self.asked = asyncio.Event()

    async def up(self, patience_s: float | None = None) -> None:
        self.asked.set()
        await asyncio.sleep(0)
        if not self.is_up:
            raise StoreUnavailable(f"{self.name} is down")

    async def run_script(self, packed: bytes) -> str:
        return self.name


class FakeNodes:
    """The nodes of a cluster, one of which has the slot."""

    def __init__(self, *, patience_s: float) -> None:
        self.command_timeout_s = patience_s
        self.old, self.new = FakeNode("old", is_up=False), FakeNode("new", is_up=True)
        self.has_it = self.old

    def owner(self, slot: int) -> Any:
        return self.has_it


async def test_a_command_follows_the_slot_while_it_waits() -> None:
    nodes: Any = FakeNodes(patience_s=60.0)
    sending = asyncio.ensure_future(SlotLink(nodes, 1).call("GET", "k"))
    await nodes.old.asked.wait()
    nodes.has_it = nodes.new
    assert await sending == "new"


async def test_a_command_fails_when_no_node_comes_in_time() -> None:
    nodes: Any = FakeNodes(patience_s=0.0)
    with pytest.raises(StoreUnavailable, match="old is down"):
        await SlotLink(nodes, 1).up()
