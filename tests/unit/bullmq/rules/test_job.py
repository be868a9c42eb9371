import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from msgspec import UNSET, Raw
from tests.unit.bullmq.rules import job_bodies
from tests.unit.json_texts import json_texts, json_values

from toril.bullmq.rules.job import ON_FAILURE, JobOptions, JobSpec, check_job, is_job_id
from toril.bullmq.rules.job_decoding import _JOBS, decode_jobs
from toril.bullmq.rules.job_faults import jobs_or_fault
from toril.bullmq.rules.json_values import whole_if_whole
from toril.core.errors import InvalidRequest


def one(**fields: Any) -> JobSpec:
    (job,) = decode_jobs(json.dumps([{"name": "charge", "data": {}} | fields]).encode())
    return job


def with_opts(**opts: Any) -> JobOptions:
    parsed = one(opts=opts).opts
    assert parsed is not None
    return parsed


def same(jobs: list[JobSpec]) -> list[tuple[str, bytes, JobOptions | None]]:
    """Jobs to compare with `==`: a `Raw` equals nothing but itself."""
    return [(job.name, bytes(job.data), job.opts) for job in jobs]


def test_jobs_come_back_in_the_order_of_the_body() -> None:
    jobs = decode_jobs(b'[{"name":"a","data":1},{"name":"b","data":2},{"data":3,"name":"c","opts":null}]')
    assert same(jobs) == [("a", b"1", None), ("b", b"2", None), ("c", b"3", None)]


def test_an_empty_array_is_no_jobs() -> None:
    assert decode_jobs(b" [ ] ") == []


@pytest.mark.parametrize("data", ["0", "false", '""', "null", "[]", "{}", '"text"', "-0.0", "1e400"])
def test_any_json_value_is_accepted_as_data(data: str) -> None:
    (job,) = decode_jobs(f'[{{"name":"a","data":{data}}}]'.encode())
    assert bytes(job.data) == data.encode()


@given(json_texts)
def test_data_is_kept_digit_for_digit(data: str) -> None:
    (job,) = decode_jobs(f'[{{"name":"a","data":{data}}}]'.encode())
    assert bytes(job.data) == data.encode()


@given(json_texts)
@example("1e400")
def test_data_is_kept_digit_for_digit_where_the_options_need_the_slow_path(data: str) -> None:
    (job,) = decode_jobs(f'[{{"name":"a","data":{data},"opts":{{"attempts":3.0}}}}]'.encode())
    assert bytes(job.data) == data.encode()
    assert job.opts == JobOptions(attempts=3)


@given(job_bodies.bodies)
@example(b'[{"name":"a","data":1,"opts":{"removeOnComplete":null,"removeOnFail":null}}]')
@example(b'[{"name":"a","data":1e400}]')
def test_the_slow_path_reads_what_the_fast_decode_accepts_alike(body: bytes) -> None:
    try:
        fast = _JOBS.decode(body)
        for job in fast:
            check_job(job)
    except (msgspec.DecodeError, InvalidRequest):
        event("refused by the fast decode")
        return
    event("accepted by the fast decode")
    assert same(jobs_or_fault(body)) == same(fast)


@given(job_bodies.bodies)
@example(b'[{"name":"a","data":1,"opts":{"backoff":1%b}}]' % (b"0" * 400))
@example(b'[{"name":"a","data":1,"opts":{"deduplication":{"id":"a","ttl":1%b}}}]' % (b"0" * 400))
@example(b'[{"name":"a","data":1,"opts":{"attempts":1%b}}]' % (b"0" * 5000))
def test_a_nearly_valid_body_is_accepted_or_refused(body: bytes) -> None:
    try:
        decode_jobs(body)
    except InvalidRequest:
        event("refused")
    else:
        event("accepted")


@given(st.one_of(json_texts.map(str.encode), json_values.map(json.dumps).map(str.encode), st.binary(max_size=30)))
@example(b"")
@example(b"[" * 100_000)
@example(b'[{"name":"a","data":%b%b}]' % (b"[" * 100_000, b"]" * 100_000))
@example(b'[{"name":"\xff","data":1}]')
@example(b'[{"name":"a","data":"\xff"}]')
@example(b'[{"name":"a","data":"\\ud800"}]')
@example(b'[{"name":"\\ud800","data":1}]')
def test_any_bytes_are_accepted_or_refused(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        decode_jobs(body)


@given(job_bodies.bodies)
@example(b'[{"name":"a","data":1,"opts":{"removeOnComplete":1%b}}]' % (b"0" * 30))
@example(b'[{"name":"a","data":1,"opts":{"removeOnFail":{"age":-1%b}}}]' % (b"0" * 30))
def test_the_options_of_an_accepted_job_can_be_packed_for_the_scripts(body: bytes) -> None:
    try:
        jobs = decode_jobs(body)
    except InvalidRequest:
        return
    for job in jobs:
        if job.opts is not None:
            packed = msgspec.msgpack.encode(job.opts.as_shown())
            assert msgspec.msgpack.decode(packed)["attempts"] == job.opts.attempts


@pytest.mark.parametrize(
    ("opts", "shown"),
    [
        ({}, {"attempts": 0}),
        (
            {"backoff": {"type": "fixed", "delay": 5, "jitter": 1}},
            {"attempts": 0, "backoff": {"type": "fixed", "delay": 5, "jitter": 1}},
        ),
        (
            {"deduplication": {"id": "d", "extend": True, "replace": False, "keepLastIfActive": None}},
            {"attempts": 0, "deduplication": {"id": "d", "extend": True, "replace": False}},
        ),
        (
            {"telemetry": {"metadata": "00-1", "omitContext": True}, "keepLogs": 0, "sizeLimit": 50.0},
            {"attempts": 0, "telemetry": {"metadata": "00-1", "omitContext": True}, "keepLogs": 0, "sizeLimit": 50},
        ),
        ({"attempts": 3}, {"attempts": 3}),
        ({"delay": 0, "lifo": False}, {"attempts": 0, "delay": 0, "lifo": False}),
        ({"backoff": 1000}, {"attempts": 0, "backoff": {"type": "fixed", "delay": 1000}}),
        ({"backoff": 0.5}, {"attempts": 0, "backoff": {"type": "fixed", "delay": 0.5}}),
        (
            {"backoff": {"type": "exponential", "delay": 200.0}},
            {"attempts": 0, "backoff": {"type": "exponential", "delay": 200}},
        ),
        ({"backoff": {"type": "mine"}}, {"attempts": 0, "backoff": {"type": "mine"}}),
        (
            {"deduplication": {"id": "d", "ttl": 5}, "jobId": "a-1", "priority": 7},
            {"attempts": 0, "deduplication": {"id": "d", "ttl": 5}, "jobId": "a-1", "priority": 7},
        ),
        (
            {"removeOnComplete": True, "removeOnFail": {"age": 5, "count": 7}},
            {"attempts": 0, "removeOnComplete": True, "removeOnFail": {"age": 5, "count": 7}},
        ),
    ],
)
def test_options_are_shown_as_bullmq_shows_them(opts: dict[str, Any], shown: dict[str, Any]) -> None:
    found = with_opts(**opts).as_shown()
    assert found == shown
    assert json.dumps(found, sort_keys=True) == json.dumps(shown, sort_keys=True), "5 is not 5.0 on the wire"


@pytest.mark.parametrize(
    "field",
    [
        "delay", "attempts", "backoff", "jobId", "deduplication", "timestamp", "keepLogs", "stackTraceLimit",
        "sizeLimit", "telemetry", *ON_FAILURE,
    ],
)  # fmt: skip
def test_null_counts_as_not_there(field: str) -> None:
    assert with_opts(**{field: None}) == JobOptions()


@pytest.mark.parametrize("field", ["removeOnComplete", "removeOnFail"])
def test_null_retention_counts_as_not_there(field: str) -> None:
    assert with_opts(**{field: None}).as_shown() == {"attempts": 0}


@pytest.mark.parametrize(
    "job_id", ["a", "order-5", "05", "-05", "-0", "+5", "5 ", "5.0", "1e3", "-", "a:b:c", "ü", "٣"]
)
def test_a_custom_id_that_bullmq_accepts_is_accepted(job_id: str) -> None:
    assert with_opts(jobId=job_id).jobId == job_id


@pytest.mark.parametrize("job_id", ["9007199254740993", "123456789012345678901234567890", "-9007199254740993"])
def test_a_custom_id_of_many_digits_is_no_integer_of_bullmq(job_id: str) -> None:
    # BullMQ refuses an id where `${parseInt(id, 10)}` === id, and these come back rounded.
    assert with_opts(jobId=job_id).jobId == job_id


@pytest.mark.parametrize("job_id", ["日本\u3000語", "a\u00a0b", "👨\u200d👩\u200d👧", "a\u200bb"])
def test_a_custom_id_may_hold_spaces_and_joiners_of_other_scripts(job_id: str) -> None:
    assert with_opts(jobId=job_id).jobId == job_id


@pytest.mark.parametrize("job_id", ["0", "5", "-5", "1234567", "9007199254740991", "NaN"])
def test_a_custom_id_must_not_be_an_integer(job_id: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Custom Id cannot be integers$"):
        with_opts(jobId=job_id)


@pytest.mark.parametrize("job_id", [":", "a:b", "a:b:c:d", ":::"])
def test_a_custom_id_must_not_hold_a_colon(job_id: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Custom Id cannot contain :$"):
        with_opts(jobId=job_id)


@pytest.mark.parametrize("job_id", ["0:2026:42", "0:0:0", "0::", "0:a:b"])
def test_a_custom_id_must_not_begin_as_bullmqs_markers_do(job_id: str) -> None:
    with pytest.raises(InvalidRequest, match="BullMQ drops jobs whose id begins with 0:"):
        with_opts(jobId=job_id)


@pytest.mark.parametrize("job_id", ["00:2026:42", "a:0:1", "10:0:1", "-0:1:2"])
def test_a_custom_id_that_only_looks_like_a_marker_is_taken(job_id: str) -> None:
    assert with_opts(jobId=job_id).jobId == job_id


@pytest.mark.parametrize("job_id", ["a\nb", "\x00", "a\x7f", "\x1b[31m"])
def test_a_custom_id_must_not_hold_control_characters(job_id: str) -> None:
    with pytest.raises(InvalidRequest, match="control characters"):
        with_opts(jobId=job_id)


@pytest.mark.parametrize("text", ["1", "order-5", "a:b:c", "wait-1", "metadata", "repeat:every:1", "lock", "de-1"])
def test_a_valid_job_id_is_recognised(text: str) -> None:
    assert is_job_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wait",
        "meta",
        "events",
        "1:lock",
        "1:logs",
        "1:dependencies",
        "limiter",
        "pc",
        "id",
        "de:x",
        "metrics:failed",
    ],
)
def test_the_name_of_another_queue_key_is_no_job_id(text: str) -> None:
    assert not is_job_id(text)


@pytest.mark.parametrize("job_id", ["wait", "meta", "events", "limiter", "a:b:lock", "de:a:b", "metrics:completed:x"])
def test_a_custom_id_must_not_be_another_key_of_the_queue(job_id: str) -> None:
    with pytest.raises(InvalidRequest, match="BullMQ uses this key itself"):
        with_opts(jobId=job_id)


def test_a_job_is_as_old_as_its_options_say() -> None:
    assert one(opts={"timestamp": 1_700_000_000_000}).timestamp_ms(5) == 1_700_000_000_000
    for opts in (None, {}, {"timestamp": None}, {"timestamp": 0}):
        assert one(opts=opts).timestamp_ms(5) == 5


@pytest.mark.parametrize("opts", [{"sizeLimit": 10}, {"sizeLimit": 0}, {"sizeLimit": None}, {"sizeLimit": 10.0}])
def test_a_size_limit_counts_the_bytes_of_the_data_as_it_came(opts: dict[str, Any]) -> None:
    (job,) = decode_jobs(
        b'[{"name":"a","data":"\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc","opts":%b}]' % json.dumps(opts).encode()
    )
    assert len(bytes(job.data)) == 10


def test_an_empty_custom_id_counts_as_not_given() -> None:
    assert with_opts(jobId="").jobId == ""


@pytest.mark.parametrize("value", [5.0, 0.0, -0.0, 1e15])
def test_a_whole_float_is_shown_as_javascript_shows_it(value: float) -> None:
    assert repr(whole_if_whole(value)) == str(int(value))


def test_a_fraction_stays_a_fraction() -> None:
    assert whole_if_whole(0.5) == 0.5


def test_a_job_without_options_has_none() -> None:
    job = one()
    assert job.opts is None
    assert isinstance(job.data, Raw)


def test_options_not_given_are_unset() -> None:
    opts = with_opts(attempts=1)
    assert (opts.delay, opts.priority, opts.lifo, opts.backoff, opts.jobId) == (UNSET,) * 5


def test_an_id_is_bounded_since_it_is_repeated_in_lists_and_streams() -> None:
    longest = "x" * 4096
    assert with_opts(jobId=longest, deduplication={"id": longest}).jobId == longest
    for opts in ({"jobId": longest + "x"}, {"deduplication": {"id": longest + "x"}}):
        with pytest.raises(InvalidRequest, match="at most 4096 characters"):
            with_opts(**opts)
