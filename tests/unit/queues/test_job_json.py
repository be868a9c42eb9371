import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.bullmq.rules import job_bodies
from toril.bullmq.rules.job_decoding import decode_jobs
from toril.core.errors import InvalidRequest
from toril.core.redaction import USUAL
from toril.core.stored_job import render
from toril.queues import job_json

QUEUE = b'"bull:orders"'


def added(body: str, job_id: bytes = b"1") -> dict[str, Any]:
    (job,) = decode_jobs(body.encode())
    shown: dict[str, Any] = json.loads(job_json.added(QUEUE, job, job_id, 1_700_000_000_000, hide=None))
    return shown


def test_an_added_job_is_shown_as_it_will_be_stored() -> None:
    shown = added(
        '[{"name":"a","data":1.10,"opts":{"delay":5,"priority":2,"deduplication":{"id":"d"},"jobId":"x"}}]', b"x"
    )
    assert shown == {
        "name": "a",
        "data": 1.1,
        "opts": {"attempts": 0, "delay": 5, "priority": 2, "deduplication": {"id": "d"}, "jobId": "x"},
        "id": "x",
        "progress": 0,
        "returnvalue": None,
        "stacktrace": None,
        "delay": 5,
        "priority": 2,
        "attemptsStarted": 0,
        "attemptsMade": 0,
        "stalledCounter": 0,
        "timestamp": 1_700_000_000_000,
        "queueQualifiedName": "bull:orders",
        "deduplicationId": "d",
    }  # fmt: skip


@given(
    job_bodies.bodies,
    st.one_of(st.integers(1).map(str), st.text(min_size=1)).map(lambda text: text.encode(errors="replace")),
)
def test_any_added_job_is_shown_as_valid_json(body: bytes, job_id: bytes) -> None:
    try:
        jobs = decode_jobs(body)
    except InvalidRequest:
        return
    for job in jobs:
        shown = json.loads(job_json.added(QUEUE, job, job_id, 5, hide=USUAL))
        assert (shown["name"], shown["id"]) == (job.name, job_id.decode())


def test_an_added_job_and_the_stored_one_have_the_same_fields() -> None:
    fields = {b"name": b"a", b"data": b"1", b"opts": b'{"attempts":0}', b"timestamp": b"1700000000000"}
    stored = json.loads(render(QUEUE, b"1", fields, b'{"attempts":0}'))
    assert added('[{"name":"a","data":1}]') | {"stacktrace": []} == stored


@given(st.lists(st.binary(max_size=8), max_size=4), st.integers(0, 10))
def test_any_log_lines_are_a_page(lines: list[bytes], count: int) -> None:
    page = json.loads(job_json.log_page(lines, count))
    assert page == {"logs": [line.decode(errors="replace") for line in lines], "count": count}
