"""Which trace an attempt continues, and how its request carries that on."""

import pytest

from toril.core.lease import Lease
from toril.core.stored_job import read_options
from toril.telemetry.tracing.spans import PROMPT_MS, context_of, continuing, is_prompt, trace_ids

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01".encode()
OTHER = f"00-{TRACE[::-1]}-{SPAN[::-1]}-00".encode()
NOW_MS = 1_700_000_000_000
HEAD = b"POST /x HTTP/1.1\r\nhost: a\r\nTraceparent: %b\r\nbaggage: a=1\r\nTRACESTATE: v=1\r\nx-last: 1\r\n" % PARENT


def lease(opts: bytes = b"{}", attempts_made: int = 0, **fields: bytes) -> Lease:
    stored = {b"timestamp": b"%d" % NOW_MS} | {name.encode(): value for name, value in fields.items()}
    options = read_options(opts)
    return Lease(queue="q", job_id=b"1", token=b"t", fields=stored, options=options, attempts_made=attempts_made)


def test_an_attempt_continues_the_trace_of_its_job_before_that_of_its_request() -> None:
    stored = b'{"tm":"{\\"traceparent\\":\\"%b\\"}"}' % OTHER
    assert context_of(HEAD, lease(stored)) == [(b"traceparent", OTHER)]
    assert context_of(HEAD, lease()) == [(b"traceparent", PARENT), (b"tracestate", b"v=1"), (b"baggage", b"a=1")]
    assert context_of(b"", lease()) == []


def test_a_head_of_lines_alone_is_read_too() -> None:
    assert context_of(b"traceparent: %b\r\n" % PARENT, lease()) == [(b"traceparent", PARENT)]


def test_a_request_carries_one_context_and_its_baggage_stays() -> None:
    head = continuing(HEAD, [(b"traceparent", OTHER), (b"baggage", b"b=2")])
    assert head == b"POST /x HTTP/1.1\r\nhost: a\r\nbaggage: a=1\r\nx-last: 1\r\ntraceparent: %b\r\n" % OTHER


def test_the_first_attempt_of_a_job_that_did_not_wait_is_prompt() -> None:
    assert is_prompt(lease(), NOW_MS + PROMPT_MS - 1)
    assert is_prompt(lease(b'{"delay":0,"backoff":{"type":"fixed","delay":9}}'), NOW_MS)


@pytest.mark.parametrize(
    "other",
    [
        lease(attempts_made=1),
        lease(b'{"delay":5}'),
        lease(parentKey=b"bull:q:9"),
        lease(b'{"tm":"{\\"toril-fan-out\\":\\"1\\"}"}'),
        lease(timestamp=b"%d" % (NOW_MS - PROMPT_MS)),
    ],
    ids=["a retry", "delayed", "a child", "one of many", "late"],
)
def test_every_other_attempt_gets_a_trace_of_its_own(other: Lease) -> None:
    assert not is_prompt(other, NOW_MS)


def test_options_and_times_that_cannot_be_read_delay_nothing() -> None:
    assert is_prompt(lease(b'{"delay":"x"}', timestamp=b"soon"), NOW_MS)


def test_the_ids_of_a_context_are_those_of_its_parent() -> None:
    assert trace_ids([(b"baggage", b"a=1"), (b"traceparent", PARENT)]) == {"trace_id": TRACE, "span_id": SPAN}
    assert trace_ids([]) == trace_ids([(b"traceparent", b"x")]) == {}
