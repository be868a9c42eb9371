import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.json_texts import json_texts
from toril.core.errors import InvalidRequest
from toril.queues.rules.commands import (
    STATES,
    Add,
    Command,
    GetJobCounts,
    GetJobLogs,
    GetJobs,
    GetWorkers,
    Pause,
    Resume,
    checked_states,
    read_command,
    request_id,
    shown,
)


def message(fn: str, *args: Any, number: Any = 1) -> bytes:
    return json.dumps({"id": number, "data": {"fn": fn, "args": args}}).encode()


def read(fn: str, *args: Any) -> Command:
    return read_command(message(fn, *args))[1]


def test_a_job_to_add_keeps_its_data_byte_for_byte() -> None:
    _, command = read_command(b'{"id":1,"data":{"fn":"add","args":["charge",{ "amount": 1.10 },{"attempts":3}]}}')
    assert isinstance(command, Add)
    job = command.job()
    assert (job.name, bytes(job.data)) == ("charge", b'{ "amount": 1.10 }')
    assert job.opts is not None
    assert job.opts.attempts == 3


@pytest.mark.parametrize("args", [("charge", 1), ("charge", 1, None)])
def test_a_job_to_add_needs_no_options(args: tuple[Any, ...]) -> None:
    command = read("add", *args)
    assert isinstance(command, Add)
    assert command.job().opts is None


@pytest.mark.parametrize(
    "args", [("", 1), (5, 1), (None, 1), ("charge", 1, {"attempts": -1}), ("charge", 1, {"jobId": "7"})]
)
def test_a_job_to_add_is_checked_like_one_that_came_by_rest(args: tuple[Any, ...]) -> None:
    command = read("add", *args)
    assert isinstance(command, Add)
    with pytest.raises(InvalidRequest):
        command.job()


@given(json_texts)
def test_any_data_of_a_job_arrives_as_it_was_written(data: str) -> None:
    _, command = read_command(f'{{"data":{{"fn":"add","args":["charge",{data}]}}}}'.encode())
    assert isinstance(command, Add)
    assert bytes(command.job().data) == data.strip().encode()


@pytest.mark.parametrize(("fn", "kind"), [("pause", Pause), ("resume", Resume), ("getWorkers", GetWorkers)])
@pytest.mark.parametrize("rest", ["", ',"args":[]'])
def test_a_command_without_arguments_may_leave_the_list_out(fn: str, kind: type, rest: str) -> None:
    assert isinstance(read_command(f'{{"data":{{"fn":"{fn}"{rest}}}}}'.encode())[1], kind)


def test_a_window_of_jobs_has_its_bounds_and_its_order() -> None:
    command = read("getJobs", ["wait", "failed", "waiting"], 5, -1, True)
    assert isinstance(command, GetJobs)
    assert command.states == ["waiting", "failed"]
    assert (command.args.start, command.args.end, command.args.oldest_first) == (5, -1, True)


def test_one_state_needs_no_list_and_the_window_is_the_first_job() -> None:
    command = read("getJobs", "active")
    assert isinstance(command, GetJobs)
    assert command.states == ["active"]
    assert command.args.window == (0, 0)
    assert not command.args.oldest_first


@pytest.mark.parametrize("text", ['{"fn":"getJobCounts"}', '{"fn":"getJobCounts","args":[]}'])
def test_counts_of_no_state_are_counts_of_all_eight(text: str) -> None:
    _, command = read_command(b'{"data":%b}' % text.encode())
    assert isinstance(command, GetJobCounts)
    assert command.states == list(STATES)
    assert len(STATES) == 8


def test_counts_are_of_the_states_named() -> None:
    command = read("getJobCounts", "delayed", "wait", "delayed")
    assert isinstance(command, GetJobCounts)
    assert command.states == ["delayed", "waiting"]


@pytest.mark.parametrize(
    ("args", "window"), [(("7",), (0, -1)), (("7", 2), (2, -1)), (("7", 2, 3), (2, 3)), (("7", None, None), (0, -1))]
)
def test_all_logs_are_returned_unless_a_window_is_given(args: tuple[Any, ...], window: tuple[int, int]) -> None:
    command = read("getJobLogs", *args)
    assert isinstance(command, GetJobLogs)
    assert (command.args.job_id, command.args.window) == ("7", window)


@pytest.mark.parametrize("command", [read("getJobs", ["active", "sleeping"]), read("getJobCounts", "sleeping")])
def test_a_state_that_bullmq_does_not_have_is_refused_by_name(command: Command) -> None:
    assert isinstance(command, (GetJobs, GetJobCounts))
    with pytest.raises(InvalidRequest, match=r"\AInvalid status: sleeping\Z"):
        _ = command.states


@given(st.lists(st.sampled_from([*STATES, "wait"])))
def test_states_are_each_there_once_in_the_order_asked_for(states: list[str]) -> None:
    checked = checked_states(states)
    assert len(set(checked)) == len(checked)
    assert set(checked) == {"waiting" if state == "wait" else state for state in states}
    places = [
        min(states.index(name) for name in (state, "wait") if name in states and state in {name, "waiting"})
        for state in checked
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "data",
    [
        "null",
        "[]",
        "{}",
        '"pause"',
        '{"args":[]}',
        '{"fn":null}',
        '{"fn":"obliterate","args":[]}',
        '{"fn":"__class__","args":[]}',
        '{"fn":"Pause","args":[]}',
        '{"fn":"pause","args":[1]}',
        '{"fn":"pause","args":{}}',
        '{"fn":"pause","force":true}',
        '{"fn":"add"}',
        '{"fn":"add","args":["charge"]}',
        '{"fn":"add","args":["charge",1,{},4]}',
        '{"fn":"getJobs","args":[]}',
        '{"fn":"getJobs","args":[7]}',
        '{"fn":"getJobs","args":["active","0"]}',
        '{"fn":"getJobs","args":["active",0.5]}',
        '{"fn":"getJobs","args":["active",0,1,1]}',
        '{"fn":"getJobs","args":["active",0,1,true,1]}',
        '{"fn":"getJobCounts","args":[1]}',
        '{"fn":"getJobLogs","args":[7]}',
        '{"fn":"getJobLogs","args":["7",0,1,2]}',
    ],
)
def test_a_message_that_is_no_command_is_refused_and_repeated(data: str) -> None:
    text = f'{{"id":1,"data":{data}}}'
    with pytest.raises(InvalidRequest) as refused:
        read_command(text.encode())
    assert refused.value.message == f"Invalid message {text}"


@pytest.mark.parametrize("text", [b"", b"{", b"null", b"[" * 100_000, b'{"id":' + b"[" * 100_000])
def test_a_frame_that_is_no_message_is_refused_without_an_id(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"\AInvalid message "):
        read_command(text)
    assert request_id(text) == b"null"


def test_bytes_that_are_not_utf8_are_refused_and_have_no_id() -> None:
    text = b'{"id":1,"data":{"fn":"add","args":["charge","\xff"]}}'
    with pytest.raises(InvalidRequest, match="not UTF-8 at byte 45"):
        read_command(text)
    assert request_id(text) == b"null"


@given(json_texts)
def test_any_json_is_an_id_and_comes_back_as_it_is(number: str) -> None:
    expected = number.strip().encode()
    text = f'{{"id":{number},"data":{{"fn":"pause"}}}}'.encode()
    assert read_command(text) == (expected, Pause())
    assert request_id(text) == expected
    assert request_id(f'{{"data":5,"id":{number}}}'.encode()) == expected


def test_a_command_without_an_id_is_answered_with_null() -> None:
    assert read_command(b'{"data":{"fn":"pause"}}') == (b"null", Pause())
    assert request_id(b'{"data":{}}') == b"null"


def test_a_message_without_data_is_refused_with_its_id() -> None:
    assert request_id(b'{"id":5}') == b"5"


@given(st.binary(max_size=60))
def test_any_bytes_are_a_command_or_refused_and_their_id_is_json(text: bytes) -> None:
    try:
        number, _ = read_command(text)
        json.loads(number)
    except InvalidRequest as refused:
        refused.message.encode()
    json.loads(request_id(text))


def test_a_short_message_is_shown_whole() -> None:
    assert shown(b"x" * 1000) == "x" * 1000


def test_of_a_long_message_only_the_beginning_is_shown() -> None:
    assert shown(b"x" * 1001) == "x" * 1000 + "… (1001 bytes)"


@given(st.binary(max_size=2000))
def test_any_message_can_be_shown_without_growing(text: bytes) -> None:
    said = shown(text)
    said.encode()
    assert len(said) <= 1000 + len("… (2000 bytes)")
