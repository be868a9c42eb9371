import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.json_texts import json_texts, json_values
from toril.core.errors import InvalidRequest
from toril.core.integers import MAX_SAFE_INTEGER
from toril.core.outcome import WorkerError
from toril.core.verdict import HandOver, Snooze
from toril.queues.rules.replies import NEITHER, Done, LogLine, Progress, Report, is_stop, read_reply

NOTHING_SAID = Done(b"", WorkerError(NEITHER))


def read(text: str, *, reports: bool = True) -> Report:
    number, said = read_reply(text.encode(), reports=reports)
    assert number == 3
    return said


def error(said: Any) -> WorkerError:
    done = read(json.dumps({"id": 3, "err": said}))
    assert isinstance(done, Done)
    assert done.result == b""
    assert done.error is not None
    return done.error


@given(json_texts, st.booleans())
def test_a_result_is_kept_as_it_was_written(result: str, reports: bool) -> None:
    said = read(f'{{"id":3,"data":{{"result":{result}}}}}', reports=reports)
    assert said == Done(result.strip().encode(), None)


def test_null_is_a_result() -> None:
    assert read('{"id":3,"data":{"result":null}}') == Done(b"null", None)


@pytest.mark.parametrize(
    "text",
    [
        '{"id":3,"err":{"message":"no","stack":"at x"}}',
        '{"id":3,"data":{"err":{"message":"no","stack":"at x"}}}',
        '{"id":3,"data":{"message":"no","stack":"at x"}}',
        '{"data":{"result":1},"err":{"stack":"at x","message":"no"},"id":3}',
    ],
)
def test_an_error_may_stand_in_several_places(text: str) -> None:
    assert read(text) == Done(b"", WorkerError("no", "at x"))


@pytest.mark.parametrize(
    "text", ['{"id":3,"err":"no"}', '{"id":3,"data":{"err":"no"}}', '{"id":3,"data":{"message":"no"}}']
)
def test_an_error_may_be_a_text(text: str) -> None:
    assert read(text) == Done(b"", WorkerError("no"))


def test_an_error_at_the_top_comes_before_a_result() -> None:
    assert read('{"id":3,"err":"no","data":{"result":1}}') == Done(b"", WorkerError("no"))


@pytest.mark.parametrize(
    "text", ['{"id":3,"data":{"result":null,"err":"no"}}', '{"id":3,"data":{"result":1},"err":{"message":"no"}}']
)
def test_an_error_outdoes_a_result_beside_it(text: str) -> None:
    assert read(text) == Done(b"", WorkerError("no"))


@pytest.mark.parametrize("nothing", ["null", '""', "false", "0"])
@pytest.mark.parametrize("text", ['{"id":3,"err":%s,"data":{"result":1}}', '{"id":3,"data":{"result":1,"err":%s}}'])
def test_a_falsy_error_does_not_count_as_an_error(text: str, nothing: str) -> None:
    assert read(text % nothing) == Done(b"1", None)


@pytest.mark.parametrize("nothing", ["null", '""', "false", "0"])
@pytest.mark.parametrize("text", ['{"id":3,"err":%s}', '{"id":3,"data":{"err":%s}}'])
def test_a_falsy_error_is_no_result_either(text: str, nothing: str) -> None:
    assert read(text % nothing) == Done(b"", WorkerError(NEITHER))


def test_a_falsy_error_does_not_hide_a_report() -> None:
    assert read('{"id":3,"err":null,"data":{"progress":5}}') == Progress(b"5")


@pytest.mark.parametrize(
    "text", ['{"id":"3","data":{"result":1}}', '{"data":{"result":1},"id":"3"}', '{"id":"\\u0033","data":{"result":1}}']
)
def test_an_id_may_be_written_as_a_text(text: str) -> None:
    assert read(text) == Done(b"1", None)


@pytest.mark.parametrize("number", ["3", '"3"'])
def test_the_job_of_a_broken_reply_is_found_by_its_id(number: str) -> None:
    for rest in ('"data":{"result":"\\ud800"}', '"data":5', f'"data":{"[" * 100_000}'):
        said = read(f'{{"id":{number},{rest}}}')
        assert isinstance(said, Done)


@pytest.mark.parametrize(
    "rest",
    [
        "",
        ',"data":null',
        ',"data":{}',
        ',"data":[]',
        ',"data":5',
        ',"data":"done"',
        ',"err":null',
        ',"err":5',
        ',"err":{}',
        ',"err":{"message":5}',
        ',"data":{"err":null}',
        ',"data":{"message":["no"]}',
    ],
)
def test_a_reply_with_neither_result_nor_error_fails_the_attempt(rest: str) -> None:
    assert read(f'{{"id":3{rest}}}') == NOTHING_SAID


def test_a_stack_that_is_no_text_is_left_out() -> None:
    assert error({"message": "no", "stack": ["at x"]}) == WorkerError("no")


@pytest.mark.parametrize(("said", "is_so"), [(True, True), (False, False), (1, False), ("true", False), (None, False)])
def test_only_true_makes_an_error_unrecoverable(said: Any, is_so: bool) -> None:
    assert error({"message": "no", "unrecoverable": said}).unrecoverable is is_so


@pytest.mark.parametrize(
    ("retry_in", "after_ms"),
    [
        (0, 0),
        (1500, 1500),
        (1.9, 1),
        (MAX_SAFE_INTEGER, MAX_SAFE_INTEGER),
        (MAX_SAFE_INTEGER + 1, None),
        (1e308, None),
        (-1, None),
        (-0.5, None),
        (True, None),
        ("5", None),
        (None, None),
    ],
)
def test_a_worker_may_say_when_to_try_again(retry_in: Any, after_ms: int | None) -> None:
    assert error({"message": "no", "retryIn": retry_in}).retry_in_ms == after_ms


@given(json_texts)
def test_progress_is_kept_as_it_was_written(progress: str) -> None:
    assert read(f'{{"id":3,"data":{{"progress":{progress}}}}}') == Progress(progress.strip().encode())


def test_a_log_line_is_a_text() -> None:
    assert read('{"id":3,"data":{"log":"gr\\u00fc\\u00df"}}') == LogLine("grüß")


@pytest.mark.parametrize("line", ["5", "null", "{}", '["a"]'])
def test_a_log_line_that_is_no_text_is_refused_and_ends_nothing(line: str) -> None:
    with pytest.raises(InvalidRequest, match=r"\Alog must be a string\Z"):
        read(f'{{"id":3,"data":{{"log":{line}}}}}')


@pytest.mark.parametrize("field", ["progress", "log"])
def test_a_result_or_error_takes_precedence_over_a_report(field: str) -> None:
    assert read(f'{{"id":3,"data":{{"{field}":"a","result":1}}}}') == Done(b"1", None)
    assert read(f'{{"id":3,"data":{{"{field}":"a","err":"no"}}}}') == Done(b"", WorkerError("no"))


@pytest.mark.parametrize("field", ["progress", "log"])
def test_reports_on_a_route_without_reports_are_no_result(field: str) -> None:
    assert read(f'{{"id":3,"data":{{"{field}":"a"}}}}', reports=False) == NOTHING_SAID


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[3]",
        b'{"data":{"result":1}}',
        b'{"id":null,"data":{"result":1}}',
        b'{"id":"03","data":{"result":1}}',
        b'{"id":"3 ","data":{"result":1}}',
        b'{"id":"","data":{"result":1}}',
        b'{"id":"-3","data":{"result":1}}',
        b'{"id":"%b","data":{"result":1}}' % (b"9" * 5000),
        b'{"id":true,"data":{"result":1}}',
        b'{"id":3.5,"data":{"result":1}}',
        b'{"id":[3],"data":{"result":1}}',
        b'{"id":%b,"data":{"result":1}}' % (b"9" * 5000),
        b'{"id":' + b"[" * 100_000,
    ],
)
def test_a_message_that_names_no_job_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"\AInvalid message: it names no job\Z"):
        read_reply(text, reports=True)


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="not UTF-8 at byte 25"):
        read_reply(b'{"id":3,"data":{"result":\xff}}', reports=True)


# JSON.stringify writes half a character as `\\ud800`: a job whose worker says so must still end.
@pytest.mark.parametrize(
    "rest",
    ['"err":"\\ud800"', '"err":{"message":"\\ud800"}', '"data":{"message":"\\ud800"}', '"data":{"result":"\\ud800"}'],
)
def test_half_a_character_in_a_reply_still_ends_the_job(rest: str) -> None:
    assert isinstance(read(f'{{"id":3,{rest}}}'), Done)


_frames = st.one_of(
    st.binary(max_size=60),
    json_texts.map(str.encode),
    st.builds(
        lambda number, data, err: json.dumps({"id": number, "data": data, "err": err}).encode(),
        st.one_of(st.integers(), json_values),
        json_values,
        json_values,
    ),
    st.builds(
        lambda field, before, value, after: before + b'{"id":3,"data":{"%b":%b}}' % (field, value) + after,
        st.sampled_from([b"result", b"err", b"progress", b"log", b"message", b"stack", b"type"]),
        st.binary(max_size=2),
        st.one_of(st.binary(max_size=20), json_texts.map(str.encode)),
        st.binary(max_size=2),
    ),
)


@given(_frames, st.booleans())
@example(b'{"id":3,"err":' + b"[" * 100_000, True)
@example(b'{"id":3,"data":{"log":"\\ud800"}}', True)
@example(b'{"id":3,"err":{"message":"no","retryIn":1e400}}', True)
def test_any_bytes_are_a_report_or_refused(message: bytes, reports: bool) -> None:
    try:
        number, said = read_reply(message, reports=reports)
    except InvalidRequest:
        return
    assert isinstance(number, int)
    match said:
        case Done(error=None) | Progress():
            json.loads(said.result if isinstance(said, Done) else said.value)
        case Done(error=WorkerError() as failed):
            (failed.message + failed.stack).encode()
        case LogLine():
            said.line.encode()
    assert reports or isinstance(said, Done)


@pytest.mark.parametrize(
    "message",
    [
        b'{"data":{"type":"stop"}}',
        b'{ "data": { "type": "stop" } }',
        b'{"id":3,"data":{"why":"tired","type":"stop"}}',
        b'{"id":null,"data":{"type":"stop"}}',
    ],
)
def test_a_worker_says_stop_when_it_wants_no_more(message: bytes) -> None:
    assert is_stop(message)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b'"stop"',
        b'["stop"]',
        b'{"type":"stop"}',
        b'{"data":"stop"}',
        b'{"data":{"type":"drain"}}',
        b'{"data":{"type":"go","why":"stop"}}',
        b'{"data":{"type":["stop"]}}',
        b'{"data":{"type":"stop"}',
        b'{"data":{"x":"stop","y":' + b"[" * 100_000,
    ],
)
def test_other_messages_are_no_stop(message: bytes) -> None:
    assert not is_stop(message)


@pytest.mark.parametrize(
    "message",
    [
        b'{"id":3,"data":{"result":"stop"}}',
        b'{"id":3,"data":{"result":{"type":"stop"}}}',
        b'{"id":3,"data":{"log":"stop"}}',
        b'{"id":3,"data":{"progress":"stop"}}',
        b'{"id":3,"data":{"err":{"message":"stop"}}}',
        b'{"id":3,"err":"stop","data":{}}',
    ],
)
def test_a_reply_that_holds_the_word_stop_is_no_stop(message: bytes) -> None:
    assert not is_stop(message)


def test_a_stop_that_is_not_utf8_is_no_stop() -> None:
    assert not is_stop(b'{"data":{"type":"\xff","why":"stop"}}')


def test_a_worker_that_gets_whole_jobs_may_settle_later_or_put_off() -> None:
    assert read('{"id":3,"data":{"later":60000}}') == Done(b"", None, HandOver(60_000))
    assert read('{"id":3,"data":{"snooze":5000}}') == Done(b"", None, Snooze(5000, "its worker puts it off"))


@pytest.mark.parametrize(
    "data",
    ['{"later":999}', '{"later":86400001}', '{"later":"1m"}', '{"later":true}', '{"snooze":0}', '{"snooze":86400001}'],
)
def test_a_time_out_of_bounds_is_refused(data: str) -> None:
    with pytest.raises(InvalidRequest, match="must be a number of milliseconds"):
        read(f'{{"id":3,"data":{data}}}')


def test_workers_of_the_original_protocol_cannot_settle_later() -> None:
    _, said = read_reply(b'{"id":3,"data":{"later":60000}}', reports=False)
    assert said == NOTHING_SAID
