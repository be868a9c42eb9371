"""Commands for keys of a slot that is on its way from one node of a real Redis Cluster to another."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from redis.crc import key_slot

from tests.conformance.bullmq.links import address_of, quick
from tests.conformance.holding import held
from tests.conformance.worlds import RealWorld
from tests.support.cluster import SlotMove, home_of, start_nodes
from tests.support.valkey import ValkeyProcess
from toril.bullmq.lua.scripts import Scripts
from toril.core.errors import CannotServe, StoreError, StoreUnavailable
from toril.core.lease import Lease
from toril.redis.cluster import ClusterLinks
from toril.redis.links import FollowingLink, KeyPlace
from toril.redis.policy import StorePolicy
from toril.redis.resp import Wire, pack

MASTERS = 2
POLICY = quick(connect_timeout_s=5.0, command_timeout_s=5.0, silence_timeout_s=10.0)
SHORT = quick(connect_timeout_s=5.0, command_timeout_s=0.3)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ValkeyProcess]]:
    """Two masters, and a node that has no slots."""
    with ExitStack() as stack:

        def start(**options: object) -> ValkeyProcess:
            folder: Path = tmp_path_factory.mktemp("node")
            return stack.enter_context(ValkeyProcess(folder, **options))  # type: ignore[arg-type]

        yield start_nodes(start, MASTERS, empty=1)


@asynccontextmanager
async def linked_to(
    nodes: list[ValkeyProcess], policy: StorePolicy = POLICY
) -> AsyncIterator[tuple[ClusterLinks, Scripts]]:
    """A cluster's links, and scripts on them."""
    loaded: list[Scripts] = []

    async def prepare(wire: Wire) -> None:
        await loaded[0].load(wire)

    failure: Exception | None = None
    async with asyncio.TaskGroup() as tasks:
        links = ClusterLinks(address_of(nodes[0]), policy, tasks, prepare)
        loaded.append(Scripts(links))
        running = tasks.create_task(links.run())
        try:
            await links.refresh()
            for link in links.all():
                await link.up(5.0)
            yield links, loaded[0]
        except Exception as exc:
            failure = exc
        running.cancel()
        for node in links._nodes.values():
            node.task.cancel()
    if failure is not None:
        raise failure


@pytest.fixture
async def links(nodes: list[ValkeyProcess]) -> AsyncIterator[ClusterLinks]:
    async for made, _ in held(linked_to(nodes)):
        yield made


@pytest.fixture
def tag() -> str:
    """A hash tag that no other test has."""
    return f"{{{uuid.uuid4().hex}}}"


def moving(nodes: list[ValkeyProcess], tag: str, *, to_empty: bool = False) -> SlotMove:
    """The tag's slot begins to move to the other master, or to the node without slots."""
    slot = key_slot(tag.encode())
    home = home_of(slot, MASTERS)
    return SlotMove(nodes, slot, home, MASTERS if to_empty else 1 - home).begin()


@pytest.mark.parametrize("to_empty", [False, True], ids=["to another master", "to a node without slots"])
async def test_a_key_that_has_moved_already_is_asked_for_on_its_new_node(
    nodes: list[ValkeyProcess], links: ClusterLinks, tag: str, to_empty: bool
) -> None:
    gone, left, new = (f"{tag}{name}" for name in ("gone", "left", "new"))
    link, before = links.of(tag.encode()), links.address_of(tag.encode())
    for key in (gone, left):
        await link.call("SET", key, key)
    move = moving(nodes, tag, to_empty=to_empty).move(gone)
    assert await link.call("GET", gone) == gone.encode()
    assert await link.call("GET", left) == left.encode()
    assert await link.call("INCR", new) == 1
    script = "return redis.call('INCR', KEYS[1])"
    assert await link.call("EVAL", script, 1, new) == 2
    assert links.address_of(tag.encode()) == before, "the slot is still the old node's"
    assert move.keys_left() == [left]
    move.move().end()
    assert await link.call("GET", new) == b"2"
    assert links.address_of(tag.encode()) != before


async def test_a_pipeline_is_answered_in_order_by_both_nodes(
    nodes: list[ValkeyProcess], links: ClusterLinks, tag: str
) -> None:
    keys = [f"{tag}{number}" for number in range(20)]
    link = links.of(tag.encode())
    await link.pipeline([pack("SET", key, number) for number, key in enumerate(keys)])
    move = moving(nodes, tag).move(*keys[::3])
    assert await link.pipeline([pack("INCR", key) for key in keys]) == list(range(1, 21))
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await link.pipeline([pack("GET", keys[0]), pack("LPOP", keys[0])])
    link.leave(pack("SET", keys[0], "left"))
    while await link.call("GET", keys[0]) != b"left":
        await asyncio.sleep(0.01)
    move.move().end()
    assert await link.pipeline([pack("GET", key) for key in keys[1:]]) == [b"%d" % number for number in range(2, 21)]


async def test_a_command_on_separated_keys_waits_until_they_are_together(
    nodes: list[ValkeyProcess], links: ClusterLinks, tag: str
) -> None:
    keys = [f"{tag}{name}" for name in ("a", "b", "c")]
    link = links.of(tag.encode())
    await link.pipeline([pack("SET", key, 0) for key in keys])
    move = moving(nodes, tag).move(keys[0])
    script = pack("EVAL", "for _, key in ipairs(KEYS) do redis.call('INCR', key) end return 7", 3, *keys)
    async with asyncio.TaskGroup() as tasks:
        waiting = [
            tasks.create_task(link.transaction([pack("INCR", key) for key in keys])),
            tasks.create_task(link.run_script(script)),
            tasks.create_task(link.call("MGET", *keys)),
        ]
        done, _ = await asyncio.wait(waiting, timeout=0.1)
        assert not done
        move.move().end()
    assert waiting[0].result() in ([1, 1, 1], [2, 2, 2])
    assert waiting[1].result() == 7
    assert await link.call("MGET", *keys) == [b"2", b"2", b"2"], "each ran once"


async def test_a_move_that_takes_too_long_fails_its_own_slot_alone(nodes: list[ValkeyProcess], tag: str) -> None:
    async for links, _ in held(linked_to(nodes, SHORT)):
        one, two = f"{tag}one", f"{tag}two"
        link, other = links.of(tag.encode()), links.of(b"elsewhere" + tag[1:-1].encode())
        await link.pipeline([pack("SET", one, 0), pack("SET", two, 0)])
        move = moving(nodes, tag).move(one)
        async with asyncio.TaskGroup() as tasks:
            refused = [
                tasks.create_task(_fault(link.call("MGET", one, two))),
                tasks.create_task(_fault(link.transaction([pack("INCR", one), pack("INCR", two)]))),
            ]
            served = 0
            while not all(task.done() for task in refused):
                await other.call("PING")
                served += 1
        assert served > 5
        for task in refused:
            assert isinstance(task.result(), StoreUnavailable)
        assert isinstance(refused[0].result(), CannotServe)
        move.move().end()
        assert await link.call("MGET", one, two) == [b"0", b"0"], "nothing ran"


async def _fault(call: Awaitable[object]) -> StoreError | None:
    try:
        await call
    except StoreError as exc:
        return exc
    return None


async def test_no_lease_is_lost_while_its_lock_is_on_its_way(nodes: list[ValkeyProcess], tag: str) -> None:
    async for links, scripts in held(linked_to(nodes, SHORT)):
        world = RealWorld(links.all()[0], scripts, tag)
        store, keys = world.store, world.keys
        leases = []
        for number in range(2):
            await world.add(f"job-{number}")
            leased = await store.take(b"token-%d" % number)
            assert isinstance(leased, Lease)
            leases.append(leased)
        await links.of(keys.prefix).call("SADD", keys.key("stalled"), "another")
        locks = [keys.key(lease.job_id + b":lock").decode() for lease in leases]
        move = moving(nodes, tag)
        # Three places at which the call could find itself: the lock gone, the set of stalled jobs gone, all but a lock.
        for step in (locks[:1], [keys.key("stalled").decode()], [key for key in move.keys_left() if key != locks[1]]):
            move.move(*step)
            fault = await _fault(store.extend(leases))
            assert isinstance(fault, StoreUnavailable), "it is tried again; no lease is said to be lost"
        move.move().end()
        assert await store.extend(leases) == set()


async def test_a_blocking_connection_follows_its_key(nodes: list[ValkeyProcess], links: ClusterLinks, tag: str) -> None:
    key = f"{tag}list".encode()
    async with asyncio.TaskGroup() as tasks:
        following = FollowingLink(KeyPlace(links, key), POLICY, name="test", patience_s=10.0)
        running = tasks.create_task(following.run())
        await following.up(5.0)
        before = following.address
        move = moving(nodes, tag)
        with pytest.raises(StoreUnavailable):
            await following.call("BLPOP", key, 5)
        await links.of(key).call("RPUSH", key, "there")
        move.move().end()
        with pytest.raises(StoreUnavailable):
            await following.call("BLPOP", key, 5)
        assert following.address != before
        while True:
            try:
                assert await following.call("BLPOP", key, 5) == [key, b"there"]
                break
            except StoreUnavailable:  # it connects
                await asyncio.sleep(0.01)
        running.cancel()


async def test_the_map_is_read_from_the_node_that_a_slot_has_moved_to(
    nodes: list[ValkeyProcess], links: ClusterLinks, tag: str
) -> None:
    link = links.of(tag.encode())
    await link.call("SET", f"{tag}a", "1")
    move = moving(nodes, tag, to_empty=True).move()
    assert links.address_of(tag.encode()).port != nodes[MASTERS].port
    move.end()
    assert await link.call("GET", f"{tag}a") == b"1"
    assert links.address_of(tag.encode()).port == nodes[MASTERS].port
