"""The connections of a cluster when a node that is frozen has lost its slots to another one."""

import asyncio

import pytest

from tests.conformance.bullmq.links import address_of, quick
from tests.support.valkey import StartValkey
from toril.core.errors import ConnectionLost
from toril.redis.cluster import ClusterLinks
from toril.redis.resp import Wire

# Longer than a test may take: only the loss of the slots ends the wait.
PATIENT = quick(connect_timeout_s=10.0, command_timeout_s=100.0, silence_timeout_s=100.0)
SLOTS = (0, 16383)


async def nothing(wire: Wire) -> None:
    pass


async def test_what_waits_for_a_frozen_node_fails_when_another_one_has_its_slots(start_valkey: StartValkey) -> None:
    old, new = start_valkey(), start_valkey()
    failure: BaseException | None = None
    async with asyncio.TaskGroup() as tasks:
        links = ClusterLinks(address_of(old), PATIENT, tasks, nothing)
        try:
            links._take([(*SLOTS, ("127.0.0.1", old.port))])
            key = links.of(b"k")
            await key.call("SET", "k", "1")
            old.pause()
            waiting = asyncio.ensure_future(key.call("GET", "k"))
            await asyncio.sleep(0)  # it is sent, in its first step
            links._take([(*SLOTS, ("127.0.0.1", new.port))])
            with pytest.raises(ConnectionLost):
                await asyncio.wait_for(waiting, 30)
            assert await key.call("GET", "k") is None
        except BaseException as exc:
            failure = exc
        for node in links._nodes.values():
            node.task.cancel()
    old.resume()
    if failure is not None:
        raise failure
