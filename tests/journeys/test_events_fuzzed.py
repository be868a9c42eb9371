"""Whatever comes in on the events socket, in the queries of the event routes, or out of the stream: nothing breaks."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote, quote_from_bytes

import pytest
import redis
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

from tests.journeys.test_events import Listener, event_path, listening
from tests.support.gateway import TOKEN, Gateway
from tests.support.sockets import SocketClient, socket_to
from tests.support.toril import TorilProcess

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "data", "fn", "args", "on", "off"]), inner, max_size=4)
    ),
)
NEARLY = st.fixed_dictionaries(
    {"data": st.fixed_dictionaries({"fn": st.sampled_from(["on", "off", "once", ""])}, optional={"args": JSON})},
    optional={"id": JSON},
)
FRAMES = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode(errors="replace").decode()),
    st.integers(1, 100_000).map(lambda depth: "[" * depth),
    st.integers(1, 100_000).map(lambda depth: '{"id":1,"data":' * depth),
    JSON.map(json.dumps),
    NEARLY.map(json.dumps),
    st.lists(st.text(max_size=3), max_size=150).map(lambda names: json.dumps({"data": {"fn": "on", "args": names}})),
)
IDS = st.one_of(
    st.text(max_size=30),
    st.from_regex(r"\A-?\d{0,25}-?\d{0,25}\Z"),
    st.sampled_from(
        ["$", "*", "+", "-", "0-0", "0-*", "(1", "٣", "1-٣", "9" * 19, "9" * 19 + "-" + "9" * 19, "9" * 20]
    ),
)


@pytest.fixture(autouse=True)
def no_complaints(toril: TorilProcess) -> Iterator[None]:
    """Fail the test that made the server log a fault, not the last one of the session."""
    before = len(toril.complaints()), toril.log().count("Traceback"), toril.log().count(".crashed")
    yield
    assert (len(toril.complaints()), toril.log().count("Traceback"), toril.log().count(".crashed")) == before


def hears(listener: SocketClient, gateway: Gateway, queue: str, name: str = "waiting") -> None:
    """A job that is added now is heard of, behind whatever was heard before."""
    job_id = gateway.add_one(queue)
    while True:
        data = listener.receive().get("data", {})
        if data.get("event") == name and data["args"][0]["jobId"] == job_id:
            return


class TestFrames:
    """What a client sends on the events socket."""

    @FUZZ
    @given(FRAMES)
    @example('{"data":{"fn":"on","args":["\ud800"]}}'.encode("utf-8", "surrogatepass"))
    @example('{"data":{"fn":"on","args":["\\ud800"]}}')
    @example('{"id":1e999,"data":{"fn":"on","args":[]}}')
    @example(b'{"id":"\xff","data":{"fn":"on","args":[]}}')
    @example('{"id":1,"id":2,"data":{"fn":"on","args":[]},"data":null}')
    def test_every_frame_is_answered_and_events_go_on(
        self, toril: TorilProcess, gateway: Gateway, message: str | bytes
    ) -> None:
        with socket_to(toril.url, event_path("fuzzed-events", "?events=waiting")) as listener:
            listener.send(message)
            answer = listener.receive()
            assert "err" in answer or set(answer) == {"id", "data"}
            assert listener.command("on", "waiting")["ok"]
            hears(listener, gateway, "fuzzed-events")

    @FUZZ
    @given(st.lists(FRAMES, max_size=20))
    def test_many_frames_without_waiting_are_answered_in_order(
        self, toril: TorilProcess, messages: list[str | bytes]
    ) -> None:
        with socket_to(toril.url, event_path("fuzzed-frames")) as listener:
            for message in messages:
                listener.send(message)
            listener.send({"id": "last", "data": {"fn": "off", "args": []}})
            answers = [listener.receive() for _ in range(len(messages) + 1)]
            assert [answer["id"] for answer in answers].index("last") == len(messages)

    def test_no_more_than_a_hundred_names_are_listened_for(self, toril: TorilProcess, gateway: Gateway) -> None:
        names = [f"name-{index}" for index in range(101)]
        with socket_to(toril.url, event_path("fuzzed-names", "?events=waiting")) as listener:
            assert "message" in listener.command("on", *names)
            assert len(listener.command("on", *names[:99])["ok"]) == 100
            assert "message" in listener.command("on", names[99])
            hears(listener, gateway, "fuzzed-names")


@contextmanager
def tried(toril: TorilProcess, path: str) -> Iterator[tuple[int, SocketClient | None]]:
    """Open a socket that may be refused; the status, and the socket if there is one."""
    with ExitStack() as stack:
        listener = None
        status = 101
        try:
            listener = stack.enter_context(socket_to(toril.url, path))
        except InvalidStatus as refused:
            status = refused.response.status_code
        yield status, listener


def subscribed(listener: SocketClient, *names: str) -> Any:
    """What the answer to `on` says, whatever events come before it."""
    listener.send({"id": "on", "data": {"fn": "on", "args": names}})
    while (answer := listener.receive())["id"] != "on":
        pass
    return answer


class TestQueries:
    """What stands behind the question mark, and `Last-Event-ID`."""

    @FUZZ
    @given(st.binary(max_size=60), st.booleans())
    @example(b"waiting,\xff", False)
    @example(b",", False)
    @example(b"waiting," * 1000, False)
    def test_any_events_can_be_named(self, toril: TorilProcess, gateway: Gateway, events: bytes, encoded: bool) -> None:
        named = quote_from_bytes(events, safe="" if encoded else "&=%,")
        with tried(toril, event_path("fuzzed-query", f"?events={named}")) as (status, listener):
            assert status in (101, 400)
            if listener is not None:
                assert "data" in subscribed(listener, "waiting")
                hears(listener, gateway, "fuzzed-query")

    @FUZZ
    @given(IDS)
    @example("1")
    def test_any_since_is_taken_or_refused_alike_on_both_routes(
        self, toril: TorilProcess, gateway: Gateway, since: str
    ) -> None:
        query = quote(since.encode(errors="replace"), safe="")
        with gateway.http.stream("GET", f"/queues/fuzzed-since/events?since={query}") as answer:
            assert answer.status_code in (200, 400)
        with tried(toril, event_path("fuzzed-since", f"?events=waiting&since={query}")) as (status, listener):
            assert (status, answer.status_code) in ((101, 200), (400, 400))
            if listener is not None:
                assert "data" in subscribed(listener, "added")

    @FUZZ
    @given(IDS.map(lambda text: text.encode("latin-1", errors="replace")) | st.binary(max_size=40))
    def test_any_last_event_id_is_taken_or_refused(self, toril: TorilProcess, value: bytes) -> None:
        assume(not set(value) & set(b"\r\n\x00"))
        head = b"GET /queues/fuzzed-since/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\nlast-event-id: %b"
        with socket.create_connection(("127.0.0.1", toril.port), timeout=10) as connection:
            connection.sendall(head % (TOKEN.encode(), value) + b"\r\n\r\n")
            received = b""
            while b"\r\n" not in received:
                part = connection.recv(100)
                assert part, "hung up without a word"
                received += part
        assert received.split(b" ", 2)[1] in (b"200", b"400"), received

    @FUZZ
    @given(st.binary(max_size=60).map(lambda raw: quote_from_bytes(raw, safe="&=%,+;/?")))
    @example("since=%")
    @example("since=%zz")
    @example("since=%00")
    @example("since=0&since=x")
    @example("events")
    @example("&&&=&=")
    @example("since=" + "9" * 8000)
    def test_no_query_is_a_fault(self, toril: TorilProcess, gateway: Gateway, query: str) -> None:
        with gateway.http.stream("GET", f"/queues/fuzzed-query/events?{query}") as answer:
            assert answer.status_code in (200, 400)
        with tried(toril, event_path("fuzzed-query", "?" + query)) as (status, listener):
            assert status in (101, 400, 401)
            if listener is not None:
                assert "data" in subscribed(listener, "waiting")
                hears(listener, gateway, "fuzzed-query")

    @FUZZ
    @given(st.binary(max_size=30).map(lambda raw: quote_from_bytes(raw, safe="%")), st.booleans())
    def test_no_queue_name_is_a_fault(self, toril: TorilProcess, gateway: Gateway, name: str, on_socket: bool) -> None:
        if on_socket:
            with pytest.raises(InvalidStatus) as refused, socket_to(toril.url, event_path(name, "?since=x")):
                pass
            assert refused.value.response.status_code in (400, 404)
        else:
            with gateway.http.stream("GET", f"/queues/{name}/events?since=x") as answer:
                assert answer.status_code in (400, 404)


NAMES = st.text(st.characters(codec="utf-8"), max_size=12).map(str.encode) | st.binary(max_size=12)
ENTRIES = st.lists(
    st.dictionaries(
        st.sampled_from([b"event", b"jobId", b"data", b"returnvalue", b"prev", b"", b"\xff", b'"', b"\n"]),
        NAMES
        | st.sampled_from([b"completed", b"progress", b"drained", b"{", b"NaN", b"1e999", b"[" * 2000, b'"\xff"']),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=5,
)


@contextmanager
def both(toril: TorilProcess, queue: str) -> Iterator[tuple[Listener, SocketClient]]:
    """A listener of each kind."""
    with listening(toril, queue) as stream, socket_to(toril.url, event_path(queue, "?events=waiting")) as other:
        yield stream, other


class TestEntries:
    """What other programs write to the stream: BullMQ's `QueueEventsProducer` publishes events of any name."""

    @FUZZ
    @given(ENTRIES)
    @example([{b"event": b"progress", b"data": b"[" * 2000}])
    def test_each_entry_is_one_event_with_its_name(
        self, toril: TorilProcess, gateway: Gateway, store: redis.Redis, entries: list[dict[bytes, bytes]]
    ) -> None:
        # httpx takes more for a line end than Server-Sent Events do.
        values = [value.decode(errors="replace") for fields in entries for value in fields.values()]
        assume(all(len(value.splitlines()) < 2 for value in values))
        with both(toril, "fuzzed-entries") as (stream, other):
            names = {fields.get(b"event", b"").decode(errors="replace") for fields in entries}
            subscribed(other, *names)
            ids = write(store, "fuzzed-entries", entries)
            job_id = gateway.add_one("fuzzed-entries")
            for stream_id in ids:
                frame = other.receive()
                assert frame["data"]["args"][-1] == stream_id
                assert frame["data"]["event"] in names
            told = told_until(stream, job_id)
            named = [place for place, fields in zip(ids, entries, strict=True) if fields.get(b"event")]
            assert [event["id"] for event in told if event["id"] in named] == named
            assert {event["id"] for event in told} <= set(ids)

    @pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
    def test_a_line_end_in_a_name_makes_up_no_event(
        self, toril: TorilProcess, gateway: Gateway, queue: str, store: redis.Redis, end: str
    ) -> None:
        name = end.join(["evil", "id: 1-1", "event: waiting", "data: {}", "", "event: completed"])
        with both(toril, queue) as (stream, other):
            subscribed(other, name)
            ids = write(store, queue, [{b"event": name.encode(), b"jobId": b"1"}])
            job_id = gateway.add_one(queue)
            assert other.receive()["data"]["event"] == name
            # It may be left out or come under another name, but as one event in its own place, if at all.
            assert [event.get("id") for event in told_until(stream, job_id)] in ([], ids)


def write(store: redis.Redis, queue: str, entries: list[dict[bytes, bytes]]) -> list[str]:
    """Write events as another program does; their ids."""
    ids: list[Any] = [store.xadd(f"bull:{queue}:events", fields) for fields in entries]  # type: ignore[arg-type]
    return ids


def told_until(stream: Listener, job_id: str) -> list[dict[str, Any]]:
    """What a stream tells before a job waits, but for that it was added."""
    seen = [stream.next()]
    while not (seen[-1]["event"] == "waiting" and seen[-1]["data"].get("jobId") == job_id):
        seen.append(stream.next())
    return [event for event in seen[:-1] if event["event"] != "added" or event["data"].get("jobId") != job_id]


class TestBetween:
    """All of it at once."""

    def test_a_listener_gets_every_event_beside_malformed_requests(
        self, toril: TorilProcess, gateway: Gateway, new_queue: Callable[[], str]
    ) -> None:
        queue = new_queue()
        with socket_to(toril.url, event_path(queue, "?events=waiting")) as listener:
            ids = []
            for index in range(50):
                with socket_to(toril.url, event_path(queue, "?events=waiting")) as noisy:
                    noisy.send(b"\xff" * index)
                    noisy.send('{"data":{"fn":"on","args":["' + "x" * index)
                    if index % 2:
                        noisy.drop()
                    ids.append(gateway.add_one(queue))
            assert [listener.receive()["data"]["args"][0]["jobId"] for _ in ids] == ids
