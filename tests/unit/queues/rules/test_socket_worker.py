import json
import math
from typing import Any

import pytest

from toril.core.lease import Lease
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut, WorkerError
from toril.core.stored_job import read_options
from toril.core.verdict import Complete, Fail, HandOver, Retry, Snooze, Verdict
from toril.queues.rules.socket_worker import SocketWorker


def worker(*, whole: bool = False, timeout_s: float = math.inf) -> SocketWorker:
    return SocketWorker("orders", 4, b'"bull:orders"', whole, timeout_s)


def lease(attempts_made: int = 0, data: bytes | None = b'{ "amount": 1.10 }', **opts: Any) -> Lease:
    stored = json.dumps({"attempts": 0} | opts).encode()
    fields = {b"name": b"charge", b"opts": stored, b"timestamp": b"1700000000000", b"ats": b"1"}
    if data is not None:
        fields[b"data"] = data
    return Lease(
        queue="orders",
        job_id=b"7",
        token=b"9b2c:1",
        fields=fields,
        options=read_options(stored),
        attempts_made=attempts_made,
    )


def judge(outcome: Outcome, of: Lease | None = None) -> Complete | Retry | Fail:
    return worker().judge(of or lease(), outcome, lambda: 0.5)


def failed(
    message: str = "no", stack: str = "", *, unrecoverable: bool = False, retry_in_ms: int | None = None
) -> Replied:
    return Replied(b"", WorkerError(message, stack, unrecoverable, retry_in_ms), 0.0123)


def test_a_worker_on_a_socket_has_bullmqs_defaults_and_nothing_to_call() -> None:
    destination = worker()
    assert (destination.queue, destination.url, destination.concurrency) == ("orders", "", 4)
    rules = destination.lease_rules
    assert (rules.limiter, rules.max_stalled_count, rules.keep_completed, rules.keep_failed) == (None, 1, None, None)


@pytest.mark.parametrize(
    ("stored", "sent"),
    [
        (b'{ "amount": 1.10 }', b'{ "amount": 1.10 }'),
        (b"null", b"null"),
        (b"", b"{}"),
        (None, b"{}"),
        (b"not json", b'"not json"'),
    ],
)
def test_a_worker_gets_the_data_as_stored(stored: bytes | None, sent: bytes) -> None:
    request = worker().request(lease(data=stored))
    assert (request.head, request.body, request.job_id) == (b"", sent, b"7")


def test_a_worker_that_wants_whole_jobs_gets_them_with_the_lock_token() -> None:
    assert worker(whole=True).request(lease(attempts=2)).body == (
        b'{"job":{"name":"charge","data":{ "amount": 1.10 },"opts":{"attempts": 2},"id":"7","progress":0,'
        b'"returnvalue":null,"stacktrace":[],"delay":0,"priority":0,"attemptsStarted":1,"attemptsMade":0,'
        b'"stalledCounter":0,"timestamp":1700000000000,"queueQualifiedName":"bull:orders",'
        b'"token":"9b2c:1"},"token":"9b2c:1"}'
    )


def test_a_job_may_take_as_long_as_it_likes_unless_told_otherwise() -> None:
    assert worker().request(lease()).timeout_s == math.inf
    assert worker(timeout_s=1.5).request(lease()).timeout_s == 1.5


@pytest.mark.parametrize("result", [b"null", b"1.10", b'{ "a": 1 }'])
def test_a_result_completes_the_job_as_it_was_written(result: bytes) -> None:
    assert judge(Replied(result, None, 0.01)) == Complete(result)


def test_an_error_fails_the_job_with_the_workers_own_words() -> None:
    assert judge(failed("no", "Error: no\n    at charge.js:1")) == Fail("no", "Error: no\n    at charge.js:1")


def test_an_error_without_a_stack_says_where_it_came_from() -> None:
    assert judge(failed("no")) == Fail("no", "Error: no\n    at a worker on a socket")


def test_an_error_is_tried_again_while_attempts_are_left() -> None:
    backoff = {"type": "exponential", "delay": 100}
    verdicts = [judge(failed(), lease(made, attempts=3, backoff=backoff)) for made in range(3)]
    trace = "Error: no\n    at a worker on a socket"
    assert verdicts == [Retry(100, "no", trace), Retry(200, "no", trace), Fail("no", trace)]


def test_an_unrecoverable_error_fails_the_job_though_attempts_are_left() -> None:
    assert judge(failed("no", "at x", unrecoverable=True, retry_in_ms=5), lease(attempts=3)) == Fail("no", "at x")


@pytest.mark.parametrize("after_ms", [0, 5000])
@pytest.mark.parametrize("opts", [{}, {"backoff": {"type": "fixed", "delay": 100}}])
def test_a_workers_retry_time_replaces_the_backoff(after_ms: int, opts: dict[str, Any]) -> None:
    verdict = judge(failed(stack="at x", retry_in_ms=after_ms), lease(attempts=2, **opts))
    assert verdict == Retry(after_ms, "no", "at x")


def test_a_workers_retry_time_replaces_an_unknown_backoff() -> None:
    verdict = judge(failed(stack="at x", retry_in_ms=5000), lease(attempts=2, backoff={"type": "mine"}))
    assert verdict == Retry(5000, "no", "at x")


def test_a_workers_retry_time_grants_no_further_attempt() -> None:
    assert judge(failed(stack="at x", retry_in_ms=5000), lease(1, attempts=2)) == Fail("no", "at x")


def test_an_unknown_backoff_strategy_fails_the_job() -> None:
    verdict = judge(failed(), lease(attempts=2, backoff={"type": "mine"}))
    assert isinstance(verdict, Fail)
    assert verdict.reason == "Unknown backoff strategy mine."


SILENCES = [
    (TimedOut("answer", 1.5), "Timeout", "after 1500 ms"),
    (CutOff("ECONNRESET", "gone", 0.0123), "Connection closed", "after 12 ms"),
    (ConnectFailed("ECONNREFUSED", "nobody", 0.0), "Connection closed", "after 0 ms"),
]


@pytest.mark.parametrize(("outcome", "reason", "detail"), SILENCES)
def test_a_job_without_a_reply_fails_and_says_why(outcome: Outcome, reason: str, detail: str) -> None:
    trace = f"Error: {reason}\n    at a worker on a socket\n    {detail}"
    assert judge(outcome) == Fail(reason, trace)
    assert judge(outcome, lease(attempts=2, backoff={"type": "fixed", "delay": 100})) == Retry(100, reason, trace)


def test_judging_an_http_answer_raises_a_type_error() -> None:
    with pytest.raises(TypeError):
        judge(Answered(200, "OK", [], b"", 0.01))


@pytest.mark.parametrize("asks", [HandOver(60_000), Snooze(5000, "not now")])
def test_a_worker_that_asks_for_a_verdict_gets_it(asks: HandOver | Snooze) -> None:
    verdict: Verdict = worker(whole=True).judge(lease(), Replied(b"", None, 0.01, asks), lambda: 0.5)
    assert verdict == asks
