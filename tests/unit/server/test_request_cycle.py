"""Whole answers in one step, and what has to be sent step by step instead."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from toril.core.http.headers import Header
from toril.server.request_cycle import RequestCycle, Signal

DATE = (b"date", b"Mon, 30 Nov 2026 04:55:45 GMT")
JSON = (b"content-type", b"application/json")


class Connection:
    """What a cycle needs of its connection, and what was written to it."""

    def __init__(self, method: str = "GET", *, write_paused: bool = False) -> None:
        self.scope: Any = {"type": "http", "method": method, "http_version": "1.1"}
        self.written: list[bytes] = []
        self.transport = SimpleNamespace(write_whole=self.written.append)
        self.flow = SimpleNamespace(write_paused=write_paused, read_paused=False, resume_reading=lambda: None)
        self.logger = logging.getLogger(__name__)
        self.server_state = SimpleNamespace(default_headers=[DATE])
        self.expect_100_continue = False
        self.tasks: set[Any] = set()
        self.ended = 0

    def on_response_complete(self) -> None:
        """Part of uvicorn's protocol."""
        self.ended += 1


def cycle(connection: Any, *, keep_alive: bool = True, tunnel: bool = False, leaving: bool = False) -> RequestCycle:
    return RequestCycle(connection, keep_alive=keep_alive, tunnel=tunnel, leaving=lambda: leaving)


def sized(body: bytes) -> list[Header]:
    return [JSON, (b"content-length", b"%d" % len(body))]


def test_a_whole_answer_is_one_write_as_uvicorn_frames_it() -> None:
    connection = Connection()
    made = cycle(connection)
    assert made.answer(200, sized(b"{}"), b"{}")
    head = b"HTTP/1.1 200 OK\r\ndate: Mon, 30 Nov 2026 04:55:45 GMT\r\ncontent-type: application/json\r\n"
    assert connection.written == [head + b"content-length: 2\r\n\r\n{}"]
    assert (made.response_complete, connection.ended) == (True, 1)
    assert not made.answer(200, sized(b"{}"), b"{}"), "there is one answer to a request"
    assert len(connection.written) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_answer_with_a_type_and_a_length_alone_is_written_as_any_other(method: str) -> None:
    one, other = Connection(method), Connection(method)
    assert cycle(one).answer(200, sized(b"{}"), b"{}")
    assert cycle(other).answer_typed(200, JSON[1], b"{}")
    assert other.written == one.written
    assert other.ended == 1


def test_a_type_that_is_no_header_value_is_left_to_uvicorn() -> None:
    connection = Connection()
    assert not cycle(connection).answer_typed(200, b"text/plain\r\nset-cookie: a=b", b"{}")
    assert not connection.written


def test_a_new_date_is_in_the_next_answer() -> None:
    connection = Connection()
    assert cycle(connection).answer_typed(200, JSON[1], b"{}")
    connection.server_state.default_headers = [(b"date", b"Mon, 30 Nov 2026 04:55:46 GMT")]
    assert cycle(connection).answer_typed(200, JSON[1], b"{}")
    assert [b"04:55:46" in answer for answer in connection.written] == [False, True]


def test_the_answer_to_head_has_the_length_and_no_body() -> None:
    connection = Connection("HEAD")
    assert cycle(connection).answer(200, sized(b"{}"), b"{}")
    assert connection.written[0].endswith(b"content-length: 2\r\n\r\n")


def test_a_204_answer_has_no_length() -> None:
    connection = Connection()
    assert cycle(connection).answer(204, [], b"")
    assert connection.written == [b"HTTP/1.1 204 No Content\r\ndate: Mon, 30 Nov 2026 04:55:45 GMT\r\n\r\n"]


@pytest.mark.parametrize(
    "headers",
    [
        [*sized(b"{}"), (b"location", b"/x\r\nset-cookie: a=b")],
        [*sized(b"{}"), (b"x: y\r\nz", b"1")],
        [*sized(b"{}"), (b"connection", b"close")],
        [JSON, (b"content-length", b"3")],
        [JSON, (b"content-length", b" 2")],
        [JSON],
    ],
    ids=["a line in a value", "a line in a name", "connection", "another length", "an odd length", "no length"],
)
def test_headers_that_are_not_plain_are_left_to_uvicorn_which_checks_them(headers: list[Header]) -> None:
    connection = Connection()
    assert not cycle(connection).answer(200, headers, b"{}")
    assert connection.written == []


@pytest.mark.parametrize(
    "options", [{"keep_alive": False}, {"tunnel": True}, {"leaving": True}], ids=lambda options: next(iter(options))
)
def test_an_answer_that_ends_the_connection_is_sent_step_by_step(options: dict[str, bool]) -> None:
    assert not cycle(Connection(), **options).answer(200, sized(b"{}"), b"{}")


def test_a_caller_that_takes_nothing_is_waited_for() -> None:
    assert not cycle(Connection(write_paused=True)).answer(200, sized(b"{}"), b"{}")


async def test_a_signal_wakes_all_that_wait_and_stays_set_until_it_is_cleared() -> None:
    signal = Signal()
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(signal.wait()) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        signal.set()
    await signal.wait()
    signal.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await signal.wait()


def test_a_body_that_has_come_whole_is_taken_once() -> None:
    made = cycle(Connection("POST"))
    made.body += b"[1]"
    assert made.whole_body() is None, "more may come"
    made.more_body = False
    assert made.whole_body() == b"[1]"
    assert made.whole_body() is None


def test_a_body_that_is_asked_for_has_to_be_received() -> None:
    made = cycle(Connection("POST"))
    made.more_body, made.waiting_for_100_continue = False, True
    assert made.whole_body() is None, "the client waits for 100 Continue"


async def test_after_the_whole_body_comes_the_disconnect() -> None:
    made = cycle(Connection("POST"))
    made.more_body = False
    assert made.whole_body() == b""
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(made.receive())
        await asyncio.sleep(0)
        assert not waiting.done()
        made.gone()
        made.message_event.set()
    assert waiting.result() == {"type": "http.disconnect"}


def test_a_handler_that_asks_is_told_once_that_the_client_has_hung_up() -> None:
    told: list[str] = []
    made = cycle(Connection())
    assert made.tell_when_gone(made.receive, lambda: told.append("gone"))
    made.gone()
    assert (told, made.disconnected) == (["gone"], True)


def test_nothing_is_told_after_the_answer_or_behind_middleware_that_receives() -> None:
    told: list[str] = []
    answered = cycle(Connection())
    answered.tell_when_gone(answered.receive, lambda: told.append("gone"))
    answered.answer(200, sized(b"{}"), b"{}")
    answered.gone()
    assert told == []

    async def receive() -> Any:
        """Stands for middleware."""

    assert not cycle(Connection()).tell_when_gone(receive, lambda: None)


def test_a_name_with_a_percent_sign_is_sent_as_it_is() -> None:
    connection = Connection()
    assert cycle(connection).answer(200, [*sized(b"{}"), (b"x-%b-%d", b"100%")], b"{}")
    assert b"\r\nx-%b-%d: 100%\r\n" in connection.written[0]


def test_an_answer_with_two_lengths_is_sent_step_by_step() -> None:
    assert not cycle(Connection()).answer(200, [*sized(b"{}"), (b"content-length", b"2")], b"{}")
