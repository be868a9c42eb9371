import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.json_texts import json_texts, json_values
from toril.core.backoff import Backoff
from toril.core.stored_job import (
    Keep,
    StoredOptions,
    integer_json,
    json_or_text,
    keep,
    read_options,
    render,
    text_json,
)

QUEUE = b'"bull:orders"'

# What BullMQ writes into a job's hash after `addStandardJob`, and after a job has run and failed.
FRESH = {b"name": b"charge", b"data": b'{"n":1}', b"opts": b'{"attempts":3}', b"timestamp": b"1700000000000"}
WORKED = FRESH | {
    b"delay": b"0",
    b"priority": b"7",
    b"ats": b"2",
    b"atm": b"1",
    b"stc": b"1",
    b"progress": b'{"progress":50}',
    b"returnvalue": b"null",
    b"stacktrace": b'["Error: a"]',
    b"processedOn": b"1700000000500",
    b"finishedOn": b"1700000000900",
    b"failedReason": b"Bad Gateway",
    b"deid": b"dup",
    b"rjk": b"every-hour",
    b"nrjid": b"repeat:every-hour:1",
    b"pb": b"worker-1",
    b"defa": b"child failed",
    b"parentKey": b"bull:parents:9",
    b"parent": b'{"id":"9","queueKey":"bull:parents"}',
}


def shown(fields: dict[bytes, bytes], job_id: bytes = b"1") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render(QUEUE, job_id, fields, read_options(fields.get(b"opts", b"{}")).text))
    return found


def options(**stored: Any) -> StoredOptions:
    return read_options(json.dumps(stored).encode())


def test_a_fresh_job_has_the_fields_that_clients_read() -> None:
    assert shown(FRESH) == {
        "name": "charge",
        "data": {"n": 1},
        "opts": {"attempts": 3},
        "id": "1",
        "progress": 0,
        "returnvalue": None,
        "stacktrace": [],
        "delay": 0,
        "priority": 0,
        "attemptsStarted": 0,
        "attemptsMade": 0,
        "stalledCounter": 0,
        "timestamp": 1700000000000,
        "queueQualifiedName": "bull:orders",
    }


def test_what_has_happened_to_a_job_is_shown() -> None:
    assert shown(WORKED) == shown(FRESH) | {
        "priority": 7,
        "attemptsStarted": 2,
        "attemptsMade": 1,
        "stalledCounter": 1,
        "progress": {"progress": 50},
        "stacktrace": ["Error: a"],
        "processedOn": 1700000000500,
        "finishedOn": 1700000000900,
        "failedReason": "Bad Gateway",
        "deduplicationId": "dup",
        "repeatJobKey": "every-hour",
        "nextRepeatableJobId": "repeat:every-hour:1",
        "processedBy": "worker-1",
        "deferredFailure": "child failed",
        "parentKey": "bull:parents:9",
        "parent": {"id": "9", "queueKey": "bull:parents"},
    }


def test_an_empty_reason_is_not_shown() -> None:
    assert "failedReason" not in shown(FRESH | {b"failedReason": b""})


def test_the_attempts_of_bullmq_4_are_read() -> None:
    assert shown(FRESH | {b"attemptsMade": b"2"})["attemptsMade"] == 2


def test_a_job_whose_hash_is_empty_is_shown_all_the_same() -> None:
    assert shown({})["name"] == ""


@given(json_texts)
@example("123456789012345678901234567890")
@example("1.10")
def test_stored_json_is_not_touched(text: str) -> None:
    rendered = render(QUEUE, b"1", FRESH | {b"data": text.encode(), b"returnvalue": text.encode()}, b"{}")
    assert b'"data":%b,' % text.encode() in rendered
    assert b'"returnvalue":%b,' % text.encode() in rendered


HASHES = st.dictionaries(
    st.sampled_from(sorted(WORKED)),
    st.one_of(
        st.binary(max_size=12),
        json_texts.map(str.encode),
        st.sampled_from((b"-0", b"007", b"+5", b"1_0", b"\xb2", b"1\n", b" 1", b'"\xff"', b'{"\xff":1}', b'["\xff"]')),
    ),
)


@given(HASHES, st.binary(max_size=12))
@example({b"data": b'"\xff"'}, b"1")
@example({b"returnvalue": b'{"\xff":1}'}, b"1")
@example({b"opts": b'{"kl":"\xff"}'}, b"1")
def test_any_hash_and_id_make_valid_json(fields: dict[bytes, bytes], job_id: bytes) -> None:
    text = render(QUEUE, job_id, fields, read_options(fields.get(b"opts", b"{}")).text)
    assert isinstance(json.loads(text), dict)  # in UTF-8, or it would not decode


@given(st.one_of(st.binary(max_size=20), json_texts.map(str.encode)))
@example(b'"\xff"')
def test_anything_stored_can_be_shown_as_json(stored: bytes) -> None:
    json.loads(json_or_text(stored))


@given(st.binary(max_size=20))
def test_any_bytes_can_be_shown_as_a_text(stored: bytes) -> None:
    assert json.loads(text_json(stored)) == stored.decode(errors="replace")


@pytest.mark.parametrize("stored", [b"0", b"5", b"-5", b"9007199254740993", b"123456789012345678901234567890"])
def test_an_integer_is_shown_as_it_is_stored(stored: bytes) -> None:
    assert integer_json(stored) == stored


@pytest.mark.parametrize("stored", [None, b"", b"x", b"1.5", b"007", b"+5", b" 5", b"5\n", b"--5", "٣".encode()])
def test_a_stored_value_that_is_no_integer_counts_as_zero(stored: bytes | None) -> None:
    assert integer_json(stored) == b"0"


def test_shortened_options_are_shown_by_their_long_names() -> None:
    stored = {
        "attempts": 2,
        "fpof": True,
        "cpof": True,
        "idof": True,
        "rdof": True,
        "kl": 5,
        "de": {"id": "dup"},
        "tm": "trace",
        "omc": True,
    }
    assert json.loads(options(**stored).text) == {
        "attempts": 2,
        "failParentOnFailure": True,
        "continueParentOnFailure": True,
        "ignoreDependencyOnFailure": True,
        "removeDependencyOnFailure": True,
        "keepLogs": 5,
        "deduplication": {"id": "dup"},
        "telemetry": {"metadata": "trace", "omitContext": True},
    }


def test_options_without_short_names_are_shown_as_they_are_stored() -> None:
    stored = b'{ "attempts": 3.0, "backoff": {"delay": 1.10} }'
    assert read_options(stored).text == stored


def test_a_value_that_looks_like_a_short_name_is_left_alone() -> None:
    stored = {"jobId": 'x"de":y', "attempts": 1}
    assert json.loads(options(**stored).text) == stored


def test_the_options_that_the_engine_needs_are_read() -> None:
    read = options(
        attempts=3,
        lifo=True,
        stackTraceLimit=2,
        kl=4,
        fpof=True,
        idof=True,
        backoff={"type": "exponential", "delay": 100, "jitter": 0.5},
        removeOnComplete=True,
        removeOnFail={"age": 60},
    )
    assert (read.attempts, read.lifo, read.stack_trace_limit, read.keep_logs) == (3, True, 2, 4)
    assert read.backoff == Backoff("exponential", 100, 0.5)
    assert read.on_failure == (True, False, True, False)
    assert (read.keep_completed, read.keep_failed) == (Keep(0), Keep(None, 60))


def test_a_numeric_backoff_is_a_fixed_one() -> None:
    assert options(backoff=500).backoff == Backoff("fixed", 500)


@pytest.mark.parametrize("stored", [0, None, "fast", [], {}, {"delay": 5}, {"type": 5}])
def test_a_backoff_that_cannot_be_used_is_none(stored: Any) -> None:
    assert options(backoff=stored).backoff is None


@given(st.dictionaries(st.sampled_from(("attempts", "backoff", "lifo", "kl", "stackTraceLimit", "de")), json_values))
@example({"attempts": 10**400, "backoff": {"type": "fixed", "delay": 10**400, "jitter": 10**400}})
@example({"removeOnComplete": {"age": 1e300, "count": 10**400}, "removeOnFail": 10**400})
def test_whatever_options_say_they_can_be_read(stored: dict[str, Any]) -> None:
    assert isinstance(options(**stored).attempts, int)


@pytest.mark.parametrize("stored", [b"", b"nonsense", b"[]", b"5", b"null", b'{"a":', b'{"\xff":1}', b"[" * 100_000])
def test_unreadable_stored_options_count_as_empty(stored: bytes) -> None:
    assert read_options(stored) == StoredOptions(b"{}")


# BullMQ's Worker: `keepJobs` from `removeOnComplete` / `removeOnFail`, and where there is none the worker's own.
@pytest.mark.parametrize(
    ("value", "kept", "packed"),
    [
        (None, None, None),
        (True, Keep(0), {"count": 0}),
        (False, Keep(-1), {"count": -1}),
        (0, Keep(0), {"count": 0}),
        (100, Keep(100), {"count": 100}),
        (5.0, Keep(5), {"count": 5}),
        (-1, Keep(-1), {"count": -1}),
        ({}, Keep(-1), {"count": -1}),
        ({"count": 5}, Keep(5), {"count": 5}),
        ({"count": 0}, Keep(0), {"count": 0}),
        ({"age": 60}, Keep(None, 60), {"age": 60}),
        ({"age": 60, "count": 5}, Keep(5, 60), {"age": 60, "count": 5}),
        ({"age": 60, "limit": 10}, Keep(None, 60, 10), {"age": 60, "limit": 10}),
        ({"age": "60", "count": 5}, Keep(5), {"count": 5}),
        ({"count": None}, Keep(-1), {"count": -1}),
        ("yes", Keep(0), {"count": 0}),
        ("", Keep(-1), {"count": -1}),
        ([], Keep(-1), {"count": -1}),
    ],
)
def test_retention_options_say_how_many_finished_jobs_stay(
    value: Any, kept: Keep | None, packed: dict[str, int] | None
) -> None:
    found = keep(value)
    assert found == kept
    assert (None if found is None else found.as_packed()) == packed


@given(json_values)
def test_whatever_the_retention_says_the_scripts_get_integers(value: Any) -> None:
    found = keep(value)
    if found is not None:
        packed = found.as_packed()
        assert all(type(number) is int for number in packed.values())
        msgspec.msgpack.encode(packed)
