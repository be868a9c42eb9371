"""What every `WorkerRegistry` promises: over the fake, over fakeredis, and on a real Valkey.

fakeredis has no Lua here, so what writes (two small scripts) is done by hand there.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

import fakeredis
import pytest

from tests.conformance.bullmq.links import address_of, quick, up
from tests.conformance.holding import held
from tests.conformance.servers import until
from tests.support.valkey import ValkeyProcess
from toril.core.errors import StoreRefused
from toril.queues import redis_registry
from toril.queues.ports import RegistryState, WorkerRegistry
from toril.queues.redis_registry import RedisRegistry
from toril.redis.policy import StorePolicy
from toril.testing import FakeRegistry

MAX_LEN = 5
POLICY = StorePolicy(worker_stream_max_len=MAX_LEN)
DOCUMENT = b'{"queue":"orders","endpoint":{"url":"http://a","method":"POST"}}'


class Place(Protocol):
    """A registry, and the fleet's other instances, which write to it."""

    registry: WorkerRegistry

    async def put(self, queue: str, document: bytes) -> None:
        """Another instance stores a document."""
        ...

    async def remove(self, queue: str) -> None:
        """Another instance removes one."""
        ...


class FakePlace:
    def __init__(self) -> None:
        self.registry: WorkerRegistry = FakeRegistry(max_len=MAX_LEN, follow_s=1.0)

    async def put(self, queue: str, document: bytes) -> None:
        await self.registry.put(queue, document)

    async def remove(self, queue: str) -> None:
        await self.registry.remove(queue)


class RedisPlace:
    """The hash and the stream, on whatever takes commands."""

    def __init__(self, links: Any, command: Callable[..., Any], following: Callable[..., Any]) -> None:
        self.links = links
        self.command = command
        self.registry: WorkerRegistry = RedisRegistry(links, following, POLICY)

    async def put(self, queue: str, document: bytes) -> None:
        await self.command("HSET", POLICY.worker_hash, queue, document)
        await self.announce(queue)

    async def remove(self, queue: str) -> None:
        await self.command("HDEL", POLICY.worker_hash, queue)
        await self.announce(queue)

    async def announce(self, queue: str | bytes) -> None:
        await self.command("XADD", POLICY.worker_stream, "MAXLEN", MAX_LEN, "*", "worker", queue)


class Anywhere:
    """Connections of which any key's sends its commands like this."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def of(self, key: bytes) -> "Anywhere":
        return self


@asynccontextmanager
async def on_fakeredis() -> AsyncIterator[RedisPlace]:
    client = fakeredis.FakeAsyncRedis(protocol=2)
    client.response_callbacks.clear()  # replies as Redis gives them
    try:
        yield RedisPlace(Anywhere(client.execute_command), client.execute_command, client.execute_command)
    finally:
        await client.aclose()


@asynccontextmanager
async def on_valkey(valkey: ValkeyProcess) -> AsyncIterator[RedisPlace]:
    async with up(address_of(valkey)) as link, up(address_of(valkey), quick(), patience_s=10.0) as following:
        yield RedisPlace(link, link.call, following.call)


@pytest.fixture(params=["fake", "fakeredis", "valkey"])
async def place(
    request: pytest.FixtureRequest, start_valkey: Callable[..., ValkeyProcess], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    monkeypatch.setattr(redis_registry, "FOLLOW_S", 1)
    match request.param:
        case "fake":
            yield FakePlace()
        case "fakeredis":
            async for made in held(on_fakeredis()):
                yield made
        case _:
            async for made in held(on_valkey(start_valkey())):
                yield made


@pytest.fixture
async def redis_place(start_valkey: Callable[..., ValkeyProcess]) -> AsyncIterator[RedisPlace]:
    async for made in held(on_valkey(start_valkey())):
        yield made


async def test_an_empty_registry_has_no_documents(place: Place) -> None:
    assert await place.registry.all() == {}
    assert await place.registry.some(["orders"]) == {}
    assert await place.registry.some([]) == {}


async def test_documents_are_kept_byte_for_byte(place: Place) -> None:
    documents = {"orders": DOCUMENT, "größe": b"{ }", "a b": b"\xff\x00", "{tag}": b""}
    for queue, document in documents.items():
        await place.put(queue, document)
    assert await place.registry.all() == documents
    assert await place.registry.some(["a b", "nothing", "größe"]) == {"a b": b"\xff\x00", "größe": b"{ }"}


async def test_a_removed_document_is_gone(place: Place) -> None:
    await place.put("orders", DOCUMENT)
    await place.remove("orders")
    assert await place.registry.all() == {}


async def test_changes_are_told_from_a_position_on(place: Place) -> None:
    await place.put("before", DOCUMENT)
    position = await place.registry.position()
    await place.put("one", DOCUMENT)
    await place.remove("one")
    await place.put("two", DOCUMENT)
    position, queues, gap = await place.registry.changed_since(position)
    assert (queues, gap) == (["one", "two"], False)
    await place.put("three", DOCUMENT)
    assert (await place.registry.changed_since(position))[1:] == (["three"], False)


async def test_the_first_change_ever_is_told(place: Place) -> None:
    position = await place.registry.position()
    await place.put("orders", DOCUMENT)
    assert (await place.registry.changed_since(position))[1] == ["orders"]


async def test_a_follower_gets_changes_at_once(place: Place) -> None:
    position = await place.registry.position()
    following = asyncio.ensure_future(place.registry.changed_since(position))
    await asyncio.sleep(0.05)
    assert not following.done()
    await place.put("orders", DOCUMENT)
    assert (await following)[1] == ["orders"], "not the empty answer that comes after a second"


async def test_a_follower_is_told_after_a_while_that_there_were_no_changes(place: Place) -> None:
    await place.put("before", DOCUMENT)
    position = await place.registry.position()
    began = asyncio.get_running_loop().time()
    assert await place.registry.changed_since(position) == (position, [], False)
    assert 0.9 < asyncio.get_running_loop().time() - began < 10


@pytest.mark.parametrize(("changes", "gap"), [(MAX_LEN - 1, False), (MAX_LEN, True), (MAX_LEN + 3, True)])
async def test_announcements_that_may_have_been_trimmed_are_a_gap(place: Place, changes: int, gap: bool) -> None:
    await place.put("before", DOCUMENT)
    position = await place.registry.position()
    for number in range(changes):
        await place.put(f"queue-{number}", DOCUMENT)
    position, _, found = await place.registry.changed_since(position)
    assert found is gap
    await place.put("after", DOCUMENT)
    assert (await place.registry.changed_since(position))[1:] == (["after"], False)


# What writes, on the fake and on a real server


@pytest.fixture(params=["fake", "valkey"])
async def writable(
    request: pytest.FixtureRequest, start_valkey: Callable[..., ValkeyProcess]
) -> AsyncIterator[WorkerRegistry]:
    if request.param == "fake":
        yield FakePlace().registry
        return
    async for made in held(on_valkey(start_valkey())):
        yield made.registry


Wiped = tuple[WorkerRegistry, Callable[[], Awaitable[object]]]


@pytest.fixture(params=["fake", "valkey"])
async def wiped(request: pytest.FixtureRequest, start_valkey: Callable[..., ValkeyProcess]) -> AsyncIterator[Wiped]:
    """A registry, and a way to lose all of it."""
    if request.param == "fake":
        fake = FakeRegistry(max_len=MAX_LEN, follow_s=1.0)

        async def wipe() -> None:
            fake.wipe()

        yield fake, wipe
        return
    async for made in held(on_valkey(start_valkey())):
        yield made.registry, partial(made.command, "FLUSHALL")


async def test_a_document_is_stored_and_announced(writable: WorkerRegistry) -> None:
    position = await writable.position()
    await writable.put("größe", DOCUMENT)
    assert await writable.all() == {"größe": DOCUMENT}
    assert (await writable.changed_since(position))[1] == ["größe"]


async def test_a_document_is_replaced(writable: WorkerRegistry) -> None:
    await writable.put("orders", b"1")
    await writable.put("orders", b"2")
    assert await writable.all() == {"orders": b"2"}


async def test_a_removal_is_announced(writable: WorkerRegistry) -> None:
    await writable.put("orders", DOCUMENT)
    position = await writable.position()
    assert await writable.remove("orders") is True
    assert await writable.all() == {}
    assert (await writable.changed_since(position))[1] == ["orders"]


async def test_removing_an_unknown_worker_announces_nothing(writable: WorkerRegistry) -> None:
    await writable.put("orders", DOCUMENT)
    position = await writable.position()
    assert await writable.remove("other") is False
    assert await writable.position() == position


async def test_a_worker_is_paused_and_goes_on_and_both_are_announced_once(writable: WorkerRegistry) -> None:
    await writable.put("orders", DOCUMENT)
    for paused in (True, False):
        before = await writable.position()
        for _ in range(2):
            assert await writable.pause("orders", paused=paused) is True
            assert await writable.paused() == ({"orders"} if paused else set())
        after, queues, _ = await writable.changed_since(before)
        assert (after, queues) == (await writable.position(), ["orders"])
    assert await writable.all() == {"orders": DOCUMENT}


async def test_a_pause_outlives_a_new_document_and_ends_with_a_removal(writable: WorkerRegistry) -> None:
    await writable.put("orders", DOCUMENT)
    await writable.pause("orders", paused=True)
    await writable.put("orders", b"{}")
    assert await writable.paused() == {"orders"}
    await writable.remove("orders")
    assert await writable.paused() == set()


async def test_an_unregistered_worker_cannot_be_paused(writable: WorkerRegistry) -> None:
    position = await writable.position()
    assert await writable.pause("orders", paused=True) is False
    assert await writable.paused() == set()
    assert await writable.position() == position


async def test_a_registry_is_known_again_until_redis_has_lost_it(wiped: Wiped) -> None:
    registry, wipe = wiped
    before = await registry.state(None)
    await registry.put("orders", DOCUMENT)
    seen = await registry.position()
    assert (before.count, before.behind) == (0, False)
    assert await registry.state(seen) == RegistryState(before.mark, 1, behind=False)
    await wipe()
    after = await registry.state(seen)
    assert after.mark != before.mark
    assert after.count == 0


async def test_lost_documents_are_put_back_and_announced_once(wiped: Wiped) -> None:
    registry, wipe = wiped
    for number in range(3):
        await registry.put(f"queue-{number}", DOCUMENT)
    await registry.pause("queue-1", paused=True)
    documents, paused, seen = await registry.all(), await registry.paused(), await registry.position()
    await wipe()
    position = await registry.position()
    assert await registry.put_back(documents, paused, seen) == [f"queue-{number}" for number in range(3)]
    assert (await registry.all(), await registry.paused()) == (documents, paused)
    assert (await registry.changed_since(position))[1] == [f"queue-{number}" for number in range(3)]
    assert await registry.put_back(documents, paused, seen) == [], "as another instance does it a moment later"


async def test_documents_changed_after_the_loss_are_left_alone(wiped: Wiped) -> None:
    registry, wipe = wiped
    for number in range(4):
        await registry.put(f"queue-{number}", DOCUMENT)
    documents, seen = await registry.all(), await registry.position()
    await wipe()
    await registry.put("queue-0", b"new")
    assert await registry.remove("queue-1") is False
    await registry.put("queue-2", b"new")
    assert await registry.remove("queue-2") is True
    assert await registry.put_back(documents, set(), seen) == ["queue-3"]
    assert await registry.all() == {"queue-0": b"new", "queue-3": DOCUMENT}


async def test_many_documents_are_put_back_some_at_a_time(wiped: Wiped) -> None:
    registry, wipe = wiped
    documents = {f"queue-{number}": b"%d" % number for number in range(250)}
    await wipe()
    assert await registry.put_back(documents, {"queue-199"}, None) == list(documents)
    assert await registry.all() == documents
    assert await registry.paused() == {"queue-199"}


async def test_announcements_that_are_older_than_one_seen_before_show_a_loss(redis_place: RedisPlace) -> None:
    registry = redis_place.registry
    await registry.put("orders", DOCUMENT)
    seen = await registry.position()
    await registry.put("mails", DOCUMENT)
    assert not (await registry.state(seen)).behind
    seen = await registry.position()
    await redis_place.command("XDEL", POLICY.worker_stream, seen)
    assert (await registry.state(seen)).behind


# What BullMQ Proxy instances on the same Redis see, and what they leave


async def test_the_hash_and_stream_have_the_format_of_bullmq_proxy(redis_place: RedisPlace) -> None:
    await redis_place.registry.put("orders", DOCUMENT)
    await redis_place.registry.remove("orders")
    await redis_place.registry.put("mails", b"{}")
    assert await redis_place.command("HGETALL", "bmqp:w:meta") == [b"mails", b"{}"]
    stream = await redis_place.command("XRANGE", "bmpq:w:stream", "-", "+")
    assert [fields for _, fields in stream] == [[b"worker", b"orders"], [b"worker", b"orders"], [b"worker", b"mails"]]


async def test_the_stream_has_exactly_its_length(redis_place: RedisPlace) -> None:
    for number in range(3 * MAX_LEN):
        await redis_place.registry.put(f"queue-{number}", DOCUMENT)
    assert await redis_place.command("XLEN", "bmpq:w:stream") == MAX_LEN
    await redis_place.registry.remove("queue-0")
    assert await redis_place.command("XLEN", "bmpq:w:stream") == MAX_LEN


async def test_the_keys_are_the_configured_ones(redis_place: RedisPlace) -> None:
    policy = StorePolicy(worker_hash="my:hash", worker_stream="my:stream")
    registry = RedisRegistry(redis_place.links, redis_place.command, policy)
    await registry.put("orders", DOCUMENT)
    assert await redis_place.command("KEYS", "*") in ([b"my:hash", b"my:stream"], [b"my:stream", b"my:hash"])


async def test_a_failed_write_changes_nothing(redis_place: RedisPlace) -> None:
    """Hash and stream change in one step: where the stream is none, the document is not stored either."""
    await redis_place.command("SET", "bmpq:w:stream", "not a stream")
    with pytest.raises(StoreRefused):
        await redis_place.registry.put("orders", DOCUMENT)
    assert await redis_place.registry.all() == {}


async def test_many_registrations_at_once_are_all_there_and_all_announced(redis_place: RedisPlace) -> None:
    registry = RedisRegistry(redis_place.links, redis_place.command, StorePolicy())
    position = await registry.position()
    async with asyncio.TaskGroup() as tasks:
        for number in range(80):
            tasks.create_task(registry.put(f"queue-{number}", b"%d" % number))
    assert await registry.all() == {f"queue-{number}": b"%d" % number for number in range(80)}
    _, queues, gap = await registry.changed_since(position)
    assert (sorted(queues), gap) == (sorted(f"queue-{number}" for number in range(80)), False)


async def test_foreign_values_that_are_no_queue_names_are_skipped(redis_place: RedisPlace) -> None:
    position = await redis_place.registry.position()
    await redis_place.command("HSET", "bmqp:w:meta", b"\xff", DOCUMENT, "orders", DOCUMENT)
    await redis_place.announce(b"\xff")
    await redis_place.command("XADD", "bmpq:w:stream", "*", "something", "else")
    await redis_place.announce("orders")
    assert await redis_place.registry.all() == {"orders": DOCUMENT}
    assert (await redis_place.registry.changed_since(position))[1] == ["orders"]


@pytest.mark.parametrize("key", ["bmqp:w:meta", "bmpq:w:stream"])
async def test_a_key_of_another_kind_is_found_at_the_start(redis_place: RedisPlace, key: str) -> None:
    registry = redis_place.registry
    assert isinstance(registry, RedisRegistry)
    await registry.check()
    await redis_place.command("SET", key, "mine")
    with pytest.raises(StoreRefused, match=f"the Redis key {key} is a string"):
        await registry.check()


async def test_following_goes_on_after_a_broken_connection(start_valkey: Callable[..., ValkeyProcess]) -> None:
    valkey = start_valkey()
    async with up(address_of(valkey)) as link, up(address_of(valkey), quick(), patience_s=10.0) as following:
        registry = RedisRegistry(link, following.call, StorePolicy())
        position = await registry.position()
        broken = asyncio.ensure_future(registry.changed_since(position))
        await asyncio.sleep(0.05)
        client_id = await link.call("CLIENT", "LIST", "TYPE", "normal")
        blocked = next(line for line in client_id.decode().splitlines() if "cmd=xread" in line)
        await link.call("CLIENT", "KILL", "ID", blocked.split("id=")[1].split(" ")[0])
        assert await asyncio.wait_for(asyncio.wait([broken]), 10)
        assert broken.exception() is not None
        await until(lambda: following.is_up)
        await registry.put("orders", DOCUMENT)
        assert (await registry.changed_since(position))[1] == ["orders"]
