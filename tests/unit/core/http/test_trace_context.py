"""Trace contexts: from a caller's headers into a job and back into headers, as they came."""

import json

import pytest

from toril.core.http.headers import header_lines
from toril.core.http.trace_context import MAX_BYTES, metadata, stored_headers, trace_headers

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WHOLE = [(b"traceparent", PARENT), (b"tracestate", b"a=1"), (b"baggage", b"user=7")]


def test_a_trace_context_is_read_back_as_it_was_stored() -> None:
    stored = metadata(trace_headers([(b"host", b"a"), *WHOLE, (b"accept", b"*/*")]))
    assert json.loads(stored) == {"traceparent": PARENT.decode(), "tracestate": "a=1", "baggage": "user=7"}
    assert stored_headers(stored) == WHOLE
    assert header_lines(WHOLE[:2]) == b"traceparent: " + PARENT + b"\r\ntracestate: a=1\r\n"


def test_several_lines_of_a_list_are_joined() -> None:
    headers = [(b"baggage", b"a=1"), *WHOLE[:2], (b"tracestate", b"b=2"), (b"baggage", b"c=3")]
    assert trace_headers(headers) == [WHOLE[0], (b"tracestate", b"a=1,b=2"), (b"baggage", b"a=1,c=3")]


@pytest.mark.parametrize(
    "parent",
    [
        b"", b"00", PARENT.upper(), PARENT[:-1], b"ff" + PARENT[2:], PARENT + b"0", b"00-" + b"0" * 32 + PARENT[35:],
        PARENT[:36] + b"0" * 16 + b"-01",
    ],
)  # fmt: skip
def test_without_a_valid_parent_only_the_baggage_is_passed_on(parent: bytes) -> None:
    assert trace_headers([(b"traceparent", parent), *WHOLE[1:]]) == WHOLE[2:]


def test_a_parent_of_a_later_version_is_passed_on() -> None:
    later = b"01" + PARENT[2:] + b"-what-comes"
    assert trace_headers([(b"traceparent", later)]) == [(b"traceparent", later)]


def test_a_trace_context_that_is_too_long_is_left_out() -> None:
    assert trace_headers([*WHOLE[:2], (b"baggage", b"a" * (MAX_BYTES + 1))]) == WHOLE[:2]
    assert trace_headers([WHOLE[0], (b"tracestate", b"")]) == WHOLE[:1]


def test_a_given_header_is_not_duplicated_by_the_stored_context() -> None:
    assert stored_headers(metadata(WHOLE), {b"traceparent", b"accept"}) == WHOLE[1:]


@pytest.mark.parametrize(
    "stored",
    [
        "", "5", "[]", "{", '{"traceparent":5}', '{"traceparent":"x\\r\\ny: z"}', '{"baggage":"a\\r\\nb: c"}',
        '{"baggage":"\\u20ac"}',
    ],
)  # fmt: skip
def test_a_stored_context_that_is_invalid_adds_no_header(stored: str) -> None:
    assert stored_headers(stored) == []
