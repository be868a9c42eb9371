"""Flows, on a real Valkey."""

import time
from uuid import uuid4

import pytest
import redis
from msgspec import Raw

from tests.conformance.worlds import RealWorld
from toril.bullmq.flows import Flows
from toril.bullmq.inspector import Inspector
from toril.bullmq.job_actions import JobActions
from toril.bullmq.producer import Producer
from toril.bullmq.rules.flow import FlowJob


@pytest.mark.parametrize("remembered", ["", "add_parent", "add_standard"])
async def test_a_flow_is_whole_whichever_scripts_redis_has_forgotten(
    world: RealWorld, store: redis.Redis, remembered: str
) -> None:
    """A child's script refuses to add it where its parent's has not run, and a parent alone would wait for ever."""
    scripts = world.scripts
    flows = Flows(
        scripts,
        Producer(scripts, "bull", "test"),
        Inspector(scripts, "bull"),
        JobActions(scripts, "bull", time.time),
        "bull",
    )
    child = FlowJob("child", world.queue, Raw(b"1"))
    flow = FlowJob("parent", world.queue, children=[child, child]).identified(lambda: str(uuid4()))
    store.script_flush()
    if remembered:
        store.script_load(getattr(scripts, remembered).text)
    (parent,) = await flows.add([flow], 1)
    assert store.zrange(f"bull:{world.queue}:waiting-children", 0, -1) == [parent.id]
    assert store.scard(f"{parent.key}:dependencies") == store.llen(f"bull:{world.queue}:wait") == 2
