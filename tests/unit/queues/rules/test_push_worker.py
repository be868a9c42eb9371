import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from toril.bullmq.rules.queue_name import NameRules
from toril.core.errors import InvalidRequest
from toril.core.http.signing import Secret
from toril.core.lease import Lease
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, TimedOut
from toril.core.stored_job import read_options
from toril.core.verdict import Complete, Fail, Retry
from toril.queues.rules.push_policy import PushPolicy
from toril.queues.rules.push_worker import EXCERPT_BYTES, PushWorker, returned
from toril.queues.rules.worker import Endpoint, Limiter, WorkerSpec, read_worker

NOW = 1_700_000_000.5
URL = "http://pay.example:3000/charge"
JSON = ((b"Content-Type", b"application/json"),)


def worker(url: str = URL, method: str = "POST", headers: Sequence[tuple[str, str]] = ()) -> PushWorker:
    spec = WorkerSpec("orders", Endpoint(url, method, tuple(headers), 3.0), concurrency=4, limiter=Limiter(1, 2))
    return PushWorker(spec, "bull", "toril/1", lambda: NOW)


def lease(attempts_made: int = 0, job_id: bytes = b"7", **opts: Any) -> Lease:
    stored = json.dumps({"attempts": 0} | opts).encode()
    fields = {
        b"name": b"charge",
        b"data": b'{ "amount": 1.10 }',
        b"opts": stored,
        b"timestamp": b"1700000000000",
        b"ats": b"1",
        b"atm": b"%d" % attempts_made,
    }
    return Lease(
        queue="orders",
        job_id=job_id,
        token=b"9b2c:1",
        fields=fields,
        options=read_options(stored),
        attempts_made=attempts_made,
    )


def answer(
    status: int, body: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = (), reason: str = "Because"
) -> Answered:
    return Answered(status, reason, list(headers), body, 0.0123)


def judge(outcome: Outcome, of: Lease | None = None) -> Complete | Retry | Fail:
    return worker().judge(of or lease(), outcome, lambda: 0.5)


def head(**given: Any) -> bytes:
    return worker(**given).request(lease()).head


def test_a_destination_is_what_its_worker_says() -> None:
    destination = worker()
    assert (destination.queue, destination.url, destination.concurrency) == ("orders", URL, 4)
    assert destination.lease_rules.limiter == Limiter(1, 2)


def test_the_request_is_the_registered_one_byte_for_byte() -> None:
    request = worker(headers=[("X-One", "1"), ("authorization", "Basic é")]).request(lease())
    assert request.head == (
        b"POST /charge HTTP/1.1\r\nhost: pay.example:3000\r\nX-One: 1\r\nauthorization: Basic \xe9\r\n"
        b"accept: */*\r\naccept-encoding: identity\r\nuser-agent: toril/1\r\n"
    )
    assert request.timeout_s == 3.0


def test_the_body_is_the_job_as_stored_and_the_lock_token() -> None:
    assert worker().request(lease(attempts_made=1)).body == (
        b'{"job":{"name":"charge","data":{ "amount": 1.10 },"opts":{"attempts": 0},"id":"7","progress":0,'
        b'"returnvalue":null,"stacktrace":[],"delay":0,"priority":0,"attemptsStarted":1,"attemptsMade":1,'
        b'"stalledCounter":0,"timestamp":1700000000000,"queueQualifiedName":"bull:orders",'
        b'"token":"9b2c:1"},"token":"9b2c:1"}'
    )


def test_no_content_type_is_added() -> None:
    assert b"content-type" not in head().lower()


@pytest.mark.parametrize("name", ["Accept", "USER-AGENT", "Host", "Accept-Encoding"])
def test_a_registered_header_takes_the_place_of_a_default(name: str) -> None:
    sent = head(headers=[(name, "mine")])
    assert sent.lower().count(b"\r\n%b:" % name.lower().encode()) == 1
    assert f"\r\n{name}: mine\r\n".encode() in sent


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Connection"])
def test_a_registered_framing_header_is_left_out(name: str) -> None:
    assert name.lower().encode() not in head(headers=[(name, "1")]).lower()


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://a", b"/"),
        ("http://a/", b"/"),
        ("http://a?x=1", b"/?x=1"),
        ("http://a/b/../c/./d//", b"/b/../c/./d//"),
        ("http://a/%2e%2F%7e", b"/%2e%2F%7e"),
        ("http://a/ü?ü", b"/%C3%BC?%C3%BC"),
        ("http://a/b#part", b"/b"),
        ("http://a/b?c#part", b"/b?c"),
        ("http://a/b?c?d=/&e=%20+", b"/b?c?d=/&e=%20+"),
        ("http://a/:@!$&'()*+,;=~-._", b"/:@!$&'()*+,;=~-._"),
        ('http://a/"<>^`{|}', b"/%22%3C%3E%5E%60%7B%7C%7D"),
    ],
)
def test_the_target_is_the_url_as_written(url: str, target: bytes) -> None:
    assert head(url=url).startswith(b"POST %b HTTP/1.1\r\n" % target)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Pay.Example/", b"Pay.Example"),
        ("http://a:80/", b"a:80"),
        ("https://a/", b"a"),
        ("http://[::1]:8080/", b"[::1]:8080"),
        ("http://münchen.example:81/", b"xn--mnchen-3ya.example:81"),
    ],
)
def test_the_host_is_the_urls(url: str, host: bytes) -> None:
    assert b"\r\nhost: %b\r\n" % host in head(url=url)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_the_method_is_the_registered_one(method: str) -> None:
    assert head(method=method).startswith(method.encode() + b" /charge ")


_labels = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters="/?#\\@:[]"), max_size=70
)


@given(st.lists(_labels, min_size=1, max_size=3).map(".".join), st.text(max_size=10))
@example("é..example", "")
@example("é" * 70, "")
def test_a_worker_that_could_be_registered_can_run(host: str, path: str) -> None:
    document = {"queue": "orders", "endpoint": {"url": f"http://{host}/{path}", "method": "POST"}}
    try:
        spec = read_worker(json.dumps(document).encode(), NameRules())
    except InvalidRequest:
        return
    sent = PushWorker(spec, "bull", "toril/1", lambda: NOW).request(lease()).head
    first, *others = sent.removesuffix(b"\r\n").split(b"\r\n")
    assert first.isascii()
    assert len(first.split(b" ")) == 3
    assert [line.partition(b":")[0] for line in others] == [b"host", b"accept", b"accept-encoding", b"user-agent"]


# What a 2xx answer returns: JSON where it says so, else the text.
@pytest.mark.parametrize(
    ("given", "returnvalue"),
    [
        (answer(200, b'{"a": 1.10}', JSON), b'{"a": 1.10}'),
        (answer(201, b"5", JSON), b"5"),
        (answer(299, b"null", JSON), b"null"),
        (answer(200, b"", JSON), b"null"),
        (answer(202, b"", JSON), b"null"),
        (answer(200, b' \r\n{"a":1}\n', JSON), b'{"a":1}'),
        (answer(200, b'\xef\xbb\xbf{"a":1}', JSON), b'{"a":1}'),
        (answer(200, b"[1]", ((b"content-type", b"Application/JSON; charset=utf-8"),)), b"[1]"),
        (answer(200, b'{"a":1}', ((b"content-type", b"text/plain"),)), b'"{\\"a\\":1}"'),
        (answer(200, b'{"a":1}', ((b"content-type", b"application/problem+json"),)), b'"{\\"a\\":1}"'),
        (answer(200, b"ok"), b'"ok"'),
        (answer(200), b'""'),
        (answer(204), b'""'),
        (answer(204, headers=JSON), b'""'),
        (answer(200, "grüß".encode()), '"grüß"'.encode()),
        (answer(200, b"\xff"), '"\ufffd"'.encode()),
    ],
)
def test_a_2xx_answer_completes_the_job_with_what_it_says(given: Answered, returnvalue: bytes) -> None:
    assert judge(given) == Complete(returnvalue)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"  \n", "Unexpected end of JSON input"),
        (b"{", "JSON Parse error: Input data was truncated"),
        (b"nope", "JSON Parse error: invalid character (byte 1)"),
        (b'"\xff"', "JSON Parse error: not UTF-8 at byte 1"),
        (b"[" * 100_000, "JSON Parse error: "),
    ],
)
def test_an_answer_that_claims_to_be_json_and_is_not_fails_the_attempt(body: bytes, reason: str) -> None:
    verdict = judge(answer(200, body, JSON))
    assert isinstance(verdict, Fail)
    assert verdict.reason.startswith(reason)
    assert f"Error: {verdict.reason}\n    at POST {URL}\n    answered 200 Because after 12 ms" in verdict.trace


@pytest.mark.parametrize("headers", [(), JSON])
def test_a_2xx_answer_that_cannot_be_unpacked_fails_the_attempt(headers: Sequence[tuple[bytes, bytes]]) -> None:
    unreadable = structs.replace(answer(200, b"", headers), unreadable="ERR_ENCODING: The answer is compressed with br")
    verdict = judge(unreadable)
    assert isinstance(verdict, Fail)
    assert verdict.reason == "ERR_ENCODING: The answer is compressed with br"


def test_of_another_answer_that_cannot_be_unpacked_the_trace_says_so() -> None:
    unreadable = structs.replace(
        answer(500, reason="Oops"), unreadable="ERR_ENCODING: The answer is compressed with br"
    )
    verdict = judge(unreadable)
    assert isinstance(verdict, Fail)
    assert verdict.reason == "Oops"
    assert verdict.trace.endswith("    body: ERR_ENCODING: The answer is compressed with br")


def test_a_request_asks_for_its_answer_to_be_unpacked() -> None:
    assert worker().request(lease()).unpacks


@given(st.binary(max_size=30), st.sampled_from([(), JSON]))
def test_a_return_value_is_always_valid_json(body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
    value, fault = returned(answer(200, body, headers))
    if fault is None:
        json.loads(value)


# Every other outcome, and the reason that BullMQ Proxy gives for it.
FAILURES = [
    (answer(404, reason="Not Found"), "Not Found", "answered 404 Not Found after 12 ms"),
    (answer(500, reason=""), "", "answered 500 after 12 ms"),
    (answer(302, reason="Found"), "Found", "answered 302 Found"),
    (answer(199, reason="Odd"), "Odd", "answered 199 Odd"),
    (answer(304, reason="Not Modified"), "Not Modified", "answered 304"),
    (answer(503, reason="Überlastet"), "Überlastet", "answered 503 Überlastet"),
    (
        TimedOut("answer", 3.0012),
        "The operation was aborted.",
        "no whole answer within 3000 ms (waiting for: answer), after 3001 ms",
    ),
    (TimedOut("connect", 2.0), "The operation was aborted.", "(waiting for: connect), after 2000 ms"),
    (
        ConnectFailed("ECONNREFUSED", "Nothing accepts connections at a:1", 0.001),
        "ECONNREFUSED: Unable to connect. Nothing accepts connections at a:1",
        "no connection was made, after 1 ms",
    ),
    (
        ConnectFailed("ENOTFOUND", "The host name a cannot be resolved", 0.001),
        "ENOTFOUND: Unable to connect. The host name a cannot be resolved",
        "no connection was made",
    ),
    (
        CutOff("ECONNRESET", "The connection was closed", 0.5),
        "ECONNRESET: The connection was closed",
        "no whole answer, after 500 ms",
    ),
]
IDS = [f"{type(outcome).__name__}-{reason}" for outcome, reason, _ in FAILURES]


@pytest.mark.parametrize(("outcome", "reason", "detail"), FAILURES, ids=IDS)
@pytest.mark.parametrize("opts", [{}, {"attempts": 0}, {"attempts": 1}])
def test_without_attempts_left_the_job_fails(outcome: Outcome, reason: str, detail: str, opts: dict[str, Any]) -> None:
    verdict = judge(outcome, lease(**opts))
    assert isinstance(verdict, Fail)
    assert verdict.reason == reason
    assert verdict.trace.startswith(f"Error: {reason}\n    at POST {URL}\n    ")
    assert detail in verdict.trace


@pytest.mark.parametrize(("outcome", "reason", "detail"), FAILURES, ids=IDS)
def test_with_attempts_left_the_job_is_tried_again(outcome: Outcome, reason: str, detail: str) -> None:
    verdict = judge(outcome, lease(attempts=2))
    assert isinstance(verdict, Retry)
    assert (verdict.after_ms, verdict.reason) == (0, reason)
    assert detail in verdict.trace


@pytest.mark.parametrize(
    ("made", "verdict_after_ms"), [(0, 100), (1, 200), (2, 400), (3, None)], ids=["first", "second", "third", "last"]
)
def test_the_wait_grows_with_each_attempt_until_they_are_used_up(made: int, verdict_after_ms: int | None) -> None:
    verdict = judge(answer(500), lease(made, attempts=4, backoff={"type": "exponential", "delay": 100}))
    if verdict_after_ms is None:
        assert isinstance(verdict, Fail)
    else:
        assert isinstance(verdict, Retry)
        assert verdict.after_ms == verdict_after_ms


def test_jitter_uses_the_given_chance() -> None:
    verdict = judge(answer(500), lease(attempts=2, backoff={"type": "fixed", "delay": 1000, "jitter": 0.5}))
    assert isinstance(verdict, Retry)
    assert verdict.after_ms == 750


def test_an_unknown_backoff_strategy_fails_the_job() -> None:
    verdict = judge(answer(500), lease(attempts=2, backoff={"type": "mine"}))
    assert isinstance(verdict, Fail)
    assert verdict.reason == "Unknown backoff strategy mine."


def test_the_trace_holds_the_beginning_of_the_answer() -> None:
    verdict = judge(answer(500, b"x" * (EXCERPT_BYTES + 1)))
    assert isinstance(verdict, Fail)
    assert verdict.trace.endswith(f"\n    body: {'x' * EXCERPT_BYTES} … ({EXCERPT_BYTES + 1} bytes in all)")


def test_the_trace_holds_a_short_answer_whole() -> None:
    verdict = judge(answer(500, b"x" * EXCERPT_BYTES))
    assert isinstance(verdict, Fail)
    assert verdict.trace.endswith(f"\n    body: {'x' * EXCERPT_BYTES}")


@given(st.binary(max_size=EXCERPT_BYTES * 2))
def test_any_answer_makes_a_trace_that_can_be_stored(body: bytes) -> None:
    verdict = judge(answer(500, body))
    assert isinstance(verdict, Fail)
    verdict.trace.encode()


# The worker's policy


def policed(**policy: Any) -> PushWorker:
    spec = WorkerSpec("orders", Endpoint(URL, "POST"), policy=PushPolicy(**policy))
    return PushWorker(spec, "bull", "toril/1", lambda: NOW)


def verdict_of(destination: PushWorker, status: int, *headers: tuple[bytes, bytes], **opts: Any) -> Retry | Fail:
    verdict = destination.judge(lease(**({"attempts": 2} | opts)), answer(status, b"no", headers), lambda: 0.5)
    assert isinstance(verdict, (Retry, Fail))
    return verdict


def test_a_final_status_fails_the_job_though_attempts_are_left() -> None:
    for destination in (policed(fail_on=frozenset({410})), policed(retry_on=frozenset({503}))):
        verdict = verdict_of(destination, 410, (b"toril-retry-in", b"5"), (b"retry-after", b"5"))
        assert isinstance(verdict, Fail)
        assert verdict.reason == "Because"
        assert verdict.trace == (
            f"Error: Because\n    at POST {URL}\n    answered 410 Because after 12 ms\n"
            "    the worker's policy fails the job on 410\n    body: no"
        )
        assert isinstance(verdict_of(destination, 503), Retry)


@pytest.mark.parametrize(
    "outcome",
    [
        TimedOut("answer", 3.0),
        ConnectFailed("EGRESS_DENIED", "a is refused", 0.1),
        CutOff("ECONNRESET", "closed", 0.1),
        answer(200, b"{", JSON),
    ],
)
def test_a_policy_does_not_apply_to_failures_without_a_status(outcome: Outcome) -> None:
    verdict = policed(retry_on=frozenset()).judge(lease(attempts=2), outcome, lambda: 0.5)
    assert isinstance(verdict, Retry)


def test_a_policy_grants_no_attempt() -> None:
    destination = policed(retry_on=frozenset({503}), retry_after=True)
    assert isinstance(verdict_of(destination, 503, (b"retry-after", b"5"), attempts=1), Fail)
    assert isinstance(verdict_of(worker(), 503, (b"toril-retry-in", b"5"), attempts=1), Fail)


@pytest.mark.parametrize(
    ("backoff", "retry_after", "after_ms"),
    [(None, b"5", 5000), (1000, b"5", 5000), (7000, b"5", 7000), (None, b"99", 9000), (None, b"soon", 0)],
)
def test_retry_after_is_a_floor_under_the_backoff(backoff: int | None, retry_after: bytes, after_ms: int) -> None:
    destination = policed(retry_after=True, max_retry_after_ms=9000)
    verdict = verdict_of(destination, 503, (b"Retry-After", retry_after), backoff=backoff)
    assert isinstance(verdict, Retry)
    assert verdict.after_ms == after_ms


def test_retry_after_may_be_a_date() -> None:
    at = formatdate(NOW + 30, usegmt=True).encode()
    verdict = verdict_of(policed(retry_after=True), 503, (b"retry-after", at))
    assert isinstance(verdict, Retry)
    assert 28_000 < verdict.after_ms <= 30_000


@pytest.mark.parametrize("destination", [worker(), policed(), policed(retry_after=False)])
def test_retry_after_counts_only_where_it_is_asked_for(destination: PushWorker) -> None:
    verdict = verdict_of(destination, 503, (b"retry-after", b"5"))
    assert isinstance(verdict, Retry)
    assert verdict.after_ms == 0


@pytest.mark.parametrize("destination", [worker(), policed(retry_after=True)])
@pytest.mark.parametrize("backoff", [None, 7000, {"type": "mine"}])
def test_toril_retry_in_replaces_the_backoff(destination: PushWorker, backoff: Any) -> None:
    verdict = verdict_of(destination, 503, (b"Toril-Retry-In", b"250"), (b"retry-after", b"5"), backoff=backoff)
    assert isinstance(verdict, Retry)
    assert verdict.after_ms == 250


def test_a_malformed_toril_retry_in_is_told_in_the_trace() -> None:
    verdict = verdict_of(worker(), 503, (b"toril-retry-in", b"1s"), backoff=1000)
    assert isinstance(verdict, Retry)
    assert verdict.after_ms == 1000
    assert verdict.trace.endswith("\n    toril-retry-in was ignored, '1s' is no number of milliseconds\n    body: no")


# Signing


def signed(of: Lease, *secrets: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """The headers and the body of a signed request."""
    request = policed(secrets=tuple(Secret(secret) for secret in secrets)).request(of)
    lines = request.head.removesuffix(b"\r\n").split(b"\r\n")[1:]
    return {name: value for name, _, value in (line.partition(b": ") for line in lines)}, request.body


def test_a_signature_covers_the_body_as_it_is_sent() -> None:
    headers, body = signed(lease(), b"k" * 24)
    assert headers[b"webhook-id"] == b"bull:orders:7@1700000000000"
    assert headers[b"webhook-timestamp"] == b"1700000000"
    content = b"bull:orders:7@1700000000000.1700000000." + body
    expected = base64.b64encode(hmac.new(b"k" * 24, content, hashlib.sha256).digest())
    assert headers[b"webhook-signature"] == b"v1," + expected


def test_all_attempts_of_a_job_have_one_id() -> None:
    assert signed(lease(), b"k" * 24)[0][b"webhook-id"] == signed(lease(3), b"k" * 24)[0][b"webhook-id"]
    assert signed(lease(), b"k" * 24)[0][b"webhook-id"] != signed(lease(job_id=b"8"), b"k" * 24)[0][b"webhook-id"]


def test_during_a_rotation_there_are_two_signatures() -> None:
    both = signed(lease(), b"k" * 24, b"l" * 24)[0][b"webhook-signature"].split(b" ")
    assert both == [signed(lease(), key * 24)[0][b"webhook-signature"] for key in (b"k", b"l")]


def test_without_secrets_nothing_is_signed() -> None:
    assert policed().request(lease()) == worker().request(lease())
    assert b"webhook" not in worker().request(lease()).head


class TestRedirects:
    def test_a_redirects_location_is_traced_and_not_followed(self) -> None:
        verdict = judge(answer(302, headers=[(b"Location", b"http://169.254.169.254/")], reason="Found"))
        assert isinstance(verdict, Fail)
        assert verdict.reason == "Found"
        assert "redirects are not followed, this one leads to 'http://169.254.169.254/'" in verdict.trace

    def test_a_redirects_location_cannot_break_the_trace(self) -> None:
        verdict = judge(answer(302, headers=[(b"location", b"a\x1b\xff" + b"x" * 9000)]))
        assert isinstance(verdict, Fail)
        assert "leads to 'a\\x1b" in verdict.trace
        assert len(verdict.trace) < 600

    @pytest.mark.parametrize("status", [404, 503])
    def test_no_other_status_counts_as_a_redirect(self, status: int) -> None:
        verdict = judge(answer(status, headers=[(b"location", b"http://b/")]))
        assert isinstance(verdict, Fail)
        assert "redirects" not in verdict.trace
