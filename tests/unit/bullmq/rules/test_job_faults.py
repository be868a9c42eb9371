import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from tests.unit.json_texts import json_values

from toril.bullmq.rules.job_decoding import decode_jobs
from toril.bullmq.rules.json_values import decode_json, is_number, js, whole
from toril.core.errors import InvalidRequest


def fault_of(body: Any) -> InvalidRequest:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequest) as caught:
        decode_jobs(text)
    return caught.value


def job(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "charge", "data": {}} | fields]


def with_opts(**opts: Any) -> list[dict[str, Any]]:
    return job(opts=opts)


BACKOFF_TYPE = 'must be "fixed" or "exponential" if delay is provided'

# wire/bullmq-proxy.md, "Job validation": each text, and each kind of value that draws it.
TEXTS: list[tuple[Any, str]] = [
    ({}, "Body must be an array"),
    ("[]", "Body must be an array"),
    (None, "Body must be an array"),
    ({"name": "a", "data": 1}, "Body must be an array"),
    ([{}], "name is required"),
    ([{"data": 1}], "name is required"),
    (job(name=""), "name is required"),
    (job(name=None), "name is required"),
    ([{"name": "a"}], "data is required"),
    ([{"name": "a", "opts": {}}], "data is required"),
    (job(id="5"), "Unexpected field: id"),
    (job(Name="a"), "Unexpected field: Name"),
    (with_opts(repeat={"every": 5}), "Unexpected field: opts.repeat"),
    (with_opts(repeatJobKey="daily"), "Unexpected field: opts.repeatJobKey"),
    (with_opts(backoff={"type": "fixed", "delay": 5, "jiter": 0.5}), "Unexpected field: opts.jiter"),
    (with_opts(deduplication={"id": "a", "reschedule": True}), "Unexpected field: opts.reschedule"),
    (with_opts(telemetry={"context": "00-1"}), "Unexpected field: opts.context"),
    (with_opts(delay=-1), "Invalid delay -1"),
    (with_opts(delay=1.5), "Invalid delay 1.5"),
    (with_opts(delay="5"), "Invalid delay 5"),
    (with_opts(delay=True), "Invalid delay true"),
    (with_opts(delay=2**53), f"Invalid delay {2**53}"),
    (with_opts(attempts=-1), "Invalid attempts -1"),
    (with_opts(attempts=0.5), "Invalid attempts 0.5"),
    (with_opts(attempts=[3]), "Invalid attempts [3]"),
    (with_opts(priority=0), "Invalid priority 0"),
    (with_opts(priority=-1), "Invalid priority -1"),
    (with_opts(priority=1.5), "Invalid priority 1.5"),
    (with_opts(priority="1"), "Invalid priority 1"),
    (with_opts(priority=None), "Invalid priority null"),
    (with_opts(priority=2**21 + 1), "Invalid priority 2097153"),
    (with_opts(backoff="fast"), "Invalid backoff fast, must be a number or an object"),
    (with_opts(backoff=[1]), "Invalid backoff [1], must be a number or an object"),
    (with_opts(backoff=True), "Invalid backoff true, must be a number or an object"),
    (with_opts(backoff={}), "Invalid backoff {}, must be a number or an object with at least the type field"),
    (with_opts(backoff={"type": "custom", "delay": 5}), f"Invalid backoff type custom, {BACKOFF_TYPE}"),
    (with_opts(backoff={"delay": 5}), f"Invalid backoff type undefined, {BACKOFF_TYPE}"),
    (with_opts(backoff={"type": "fixed", "delay": "5"}), "Invalid backoff delay 5, must be a number"),
    (with_opts(backoff={"type": "fixed", "delay": None}), "Invalid backoff delay null, must be a number"),
    (with_opts(backoff={"type": "exponential", "delay": -1}), "Invalid backoff delay -1, must be greater than 0"),
    (with_opts(lifo="true"), "Invalid lifo true, must be a boolean"),
    (with_opts(lifo=1), "Invalid lifo 1, must be a boolean"),
    (with_opts(lifo=None), "Invalid lifo null, must be a boolean"),
    (with_opts(jobId=5), "Invalid jobId 5, must be a string"),
    (with_opts(jobId={"a": 1}), 'Invalid jobId {"a":1}, must be a string'),
    (with_opts(deduplication={"id": 5}), "Invalid deduplication.id 5, must be a string"),
    (with_opts(deduplication={"ttl": 5}), "Invalid deduplication.id undefined, must be a string"),
    (with_opts(deduplication={"id": "a", "ttl": "5"}), "Invalid deduplication.ttl 5, must be a number"),
    (with_opts(deduplication={"id": "a", "ttl": -1}), "Invalid deduplication.ttl -1, must be greater than 0"),
]


@pytest.mark.parametrize(("body", "text"), TEXTS, ids=[text for _, text in TEXTS])
def test_a_fault_is_named_in_bullmq_proxys_words(body: Any, text: str) -> None:
    assert fault_of(body).message == text


OWN_TEXTS = re.findall(
    r"^\| `(.*)` \| `(.*)` \|$",
    (Path(__file__).parents[4] / "docs" / "reference" / "bullmq-proxy-differences.md")
    .read_text()
    .partition("## Texts of toril's own")[2],
    re.MULTILINE,
)


def test_the_documented_error_texts_are_found() -> None:
    assert len(OWN_TEXTS) >= 15


@pytest.mark.parametrize(("body", "text"), OWN_TEXTS, ids=[text for _, text in OWN_TEXTS])
def test_an_error_text_of_toril_is_the_documented_one(body: str, text: str) -> None:
    assert fault_of(body.encode()).message == text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (job(name=""), "name"),
        ([{"name": "a"}], "data"),
        (job(more=1), "more"),
        (with_opts(more=1), "opts.more"),
        (with_opts(delay=-1), "delay"),
        (with_opts(priority=0), "priority"),
        (with_opts(jobId=5), "jobId"),
        (with_opts(jobId="5"), "jobId"),
        (with_opts(deduplication={"id": 5}), "deduplication.id"),
    ],
)
def test_a_fault_names_its_field(body: Any, field: str) -> None:
    assert fault_of(body).field == field


# What the proxy lets through and BullMQ, Redis or a reader of the job would stumble over.
OURS = [
    (with_opts(timestamp=-5), "Invalid timestamp -5"),
    (with_opts(keepLogs=1.5), "Invalid keepLogs 1.5"),
    (with_opts(stackTraceLimit="5"), "Invalid stackTraceLimit 5"),
    (with_opts(sizeLimit=True), "Invalid sizeLimit true"),
    (with_opts(telemetry="00-1"), "Invalid telemetry 00-1, must be an object"),
    (with_opts(telemetry={"metadata": 5}), "Invalid telemetry.metadata 5, must be a string"),
    (with_opts(telemetry={"omitContext": "no"}), "Invalid telemetry.omitContext no, must be a boolean"),
    (with_opts(failParentOnFailure=1), "Invalid failParentOnFailure 1, must be a boolean"),
    (with_opts(deduplication={"id": "a", "extend": 1}), "Invalid deduplication.extend 1, must be a boolean"),
    (with_opts(backoff={"type": "fixed", "jitter": "x"}), "Invalid backoff jitter x, must be a number"),
    # The next ones are BullMQ's own.
    (with_opts(backoff={"type": "fixed", "delay": 5, "jitter": 1.5}), "Jitter should be between 0 and 1"),
    (with_opts(backoff={"type": "fixed", "delay": 5, "jitter": -0.5}), "Jitter should be between 0 and 1"),
    (
        with_opts(continueParentOnFailure=True, removeDependencyOnFailure=True),
        "The following options cannot be used together: removeDependencyOnFailure, continueParentOnFailure",
    ),
    (job(data="12345678", opts={"sizeLimit": 9}), "The size of job charge exceeds the limit 9 bytes"),
    (
        job(data="\u00fc\u00fc", opts={"sizeLimit": 5, "attempts": 2.0}),
        "The size of job charge exceeds the limit 5 bytes",
    ),
    ([5], "Invalid job 5, must be an object"),
    ([[]], "Invalid job [], must be an object"),
    (job(name=5), "Invalid name 5, must be a string"),
    (job(name="a\nb"), "Invalid name 'a\\nb', must not contain control characters"),
    (job(opts=[]), "Invalid opts [], must be an object"),
    (with_opts(priority=2**21), "Priority should be between 0 and 2097151"),
    (with_opts(backoff=-1), "Invalid backoff delay -1, must be greater than 0"),
    (with_opts(backoff={"type": 5}), "Invalid backoff type 5, must be a string"),
    (with_opts(deduplication="a"), "Invalid deduplication a, must be an object"),
    (with_opts(deduplication={"id": ""}), "Deduplication id must be provided"),
    (
        with_opts(deduplication={"id": "a\x00"}),
        "Invalid deduplication.id 'a\\x00', must not contain control characters",
    ),
    (
        with_opts(deduplication={"id": "a", "ttl": 0.5}),
        "Invalid deduplication.ttl 0.5, must be a whole number of milliseconds",
    ),
    (with_opts(removeOnComplete=[1]), "Invalid removeOnComplete [1], must be a boolean, a number or a flat object"),
    (
        with_opts(removeOnFail={"age": {"deep": 1}}),
        'Invalid removeOnFail {"age":{"deep":1}}, must be a boolean, a number or a flat object',
    ),
]


@pytest.mark.parametrize(("body", "text"), OURS, ids=[text for _, text in OURS])
def test_a_body_that_would_fail_later_is_refused_at_once(body: Any, text: str) -> None:
    assert fault_of(body).message == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "Malformed JSON: "),
        (b"[", "Malformed JSON: "),
        (b'[{"name":"a",}]', "Malformed JSON: "),
        (b"[]]", "Malformed JSON: "),
        (b"\xff", "Malformed JSON: not UTF-8 at byte 0"),
        (b'[{"name":"a","data":"\xc3"}]', "Malformed JSON: not UTF-8 at byte 21"),
        (b"[" * 100_000, "Malformed JSON: nested too deeply"),
    ],
)
def test_malformed_json_is_said_to_be_malformed(body: bytes, text: str) -> None:
    assert fault_of(body).message.startswith(text)


def test_the_first_fault_of_the_first_job_is_named() -> None:
    assert fault_of([*job(), *with_opts(delay=-1, attempts=-1), *job(name="")]).message == "Invalid delay -1"


def test_all_jobs_must_be_objects_before_any_is_looked_at() -> None:
    assert fault_of([*job(name=""), 5]).message == "Invalid job 5, must be an object"


@pytest.mark.parametrize(
    ("value", "found"), [(5, 5), (5.0, 5), (0, 0), (-1, None), (1.5, None), (True, None), ("5", None), (None, None)]
)
def test_a_whole_number_may_be_written_as_a_float(value: Any, found: int | None) -> None:
    assert whole(value, 0) == found


@given(json_values)
@example(10**400)
def test_any_json_value_can_be_asked_whether_it_is_a_number(value: Any) -> None:
    assert is_number(value) in (True, False)


@given(json_values)
@example(10**400)
def test_any_json_value_can_be_shown_in_a_fault(value: Any) -> None:
    shown = js(value)
    if not isinstance(value, str):
        assert json.loads(shown) == value


@given(json_values)
def test_decode_json_reads_every_json_text(value: Any) -> None:
    assert decode_json(json.dumps(value).encode()) == value
