"""What an upstream is sent, and what becomes of a job after an attempt."""

import msgspec
import pytest

from toril.core.blob import reference
from toril.core.lease import Lease
from toril.core.outcome import ConnectFailed, CutOff, Outcome, TimedOut, coding_refused
from toril.core.stored_job import Keep, read_options
from toril.core.verdict import Complete, Fail, Retry, Verdict
from toril.proxy.rules.destination import UpstreamDestination, UpstreamRules
from toril.proxy.rules.envelope import RecordedRequest, decode_response, encode_request
from toril.proxy.rules.upstream import Upstream
from toril.testing.outbound import answered

NOW_S = 1_000_000.0


def destination(*, cached: bool = False, **given: object) -> UpstreamDestination:
    upstream = Upstream(**({"prefix": "/api", "url": "http://api:3000/base/"} | given))  # type: ignore[arg-type]
    return UpstreamDestination(upstream, "default/api", 10, UpstreamRules(Keep(age=60), cached=cached), lambda: NOW_S)


def lease(data: bytes, attempts_made: int = 0) -> Lease:
    return Lease(
        queue="default/api",
        job_id=b"1",
        token=b"t",
        fields={b"data": data, b"name": b"POST /x"},
        options=read_options(b"{}"),
        attempts_made=attempts_made,
    )


def judged(outcome: Outcome, attempts_made: int = 0, **given: object) -> Verdict:
    return destination(**given).judge(lease(b"{}", attempts_made), outcome, lambda: 0.5)  # type: ignore[arg-type]


def test_the_request_is_the_recorded_one_with_the_upstreams_host() -> None:
    recorded = RecordedRequest(
        method="POST", target="/x%2Fy?q=1", headers=[(b"a", b"\xff"), (b"content-length", b"2")], body=b"\x00\x01"
    )
    request = destination().request(lease(encode_request(recorded)))
    assert request.head == (b"POST /base/x%2Fy?q=1 HTTP/1.1\r\nhost: api:3000\r\na: \xff\r\ncontent-length: 2\r\n")
    assert (request.body, request.timeout_s, request.framed, request.head_only) == (b"\x00\x01", 300.0, True, False)
    assert request.cache_key == ""


def test_head_has_no_answering_body_and_a_request_its_own_timeout() -> None:
    recorded = RecordedRequest(method="HEAD", target="/", headers=[], timeout_s=0.5)
    request = destination().request(lease(encode_request(recorded)))
    assert (request.head_only, request.timeout_s) == (True, 0.5)


def test_with_a_cache_equal_requests_have_one_key() -> None:
    one = lease(encode_request(RecordedRequest(method="GET", target="/", headers=[(b"x-real-ip", b"1")])))
    two = lease(encode_request(RecordedRequest(method="GET", target="/", headers=[(b"x-real-ip", b"2")])))
    keys = {destination(cached=True).request(each).cache_key for each in (one, two)}
    assert len(keys) == 1
    assert "" not in keys


def test_the_key_of_a_cache_is_made_of_what_the_client_itself_sent() -> None:
    def key(told: bytes, own: list[tuple[bytes, bytes]] | None) -> str:
        headers = [(b"a", b"1"), (b"x-forwarded-for", told)]
        recorded = RecordedRequest(method="GET", target="/", headers=headers, forwarding=own)
        everything_counts = destination(cached=True, cache_key_excludes=frozenset({b"x-trace-id"}))
        return everything_counts.request(lease(encode_request(recorded))).cache_key

    assert key(b"1.1.1.1", []) == key(b"2.2.2.2", [])
    assert key(b"1.1.1.1", [(b"x-forwarded-for", b"3")]) != key(b"1.1.1.1", [])
    # A job that another program added has no headers of toril's.
    assert key(b"1.1.1.1", None) != key(b"2.2.2.2", None)
    assert key(b"1.1.1.1", None) == key(b"9", [(b"x-forwarded-for", b"1.1.1.1")])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b'{"method":"GET"}',
        b'{"method":"\xc3\xa9","target":"/","headers":[]}',
        b'{"method":"GET","target":"/\\r\\nx: y","headers":[]}',
    ],
)
def test_a_job_that_holds_no_request_fails_for_good_and_says_why(data: bytes) -> None:
    request = destination().request(lease(data))
    assert request.head == b""
    assert request.fault.startswith("the job holds no recorded request that can be sent: ")
    verdict = judged(CutOff("EINVAL", request.fault, 0.0), max_retries=5)
    assert isinstance(verdict, Fail)
    assert verdict.reason == request.fault


@pytest.mark.parametrize("status", [200, 301, 404, 429, 500, 599])
def test_any_answer_completes_and_is_kept_beside_a_summary(status: int) -> None:
    answer = answered(status, b"\xff", reason="Why", headers=[(b"A", b"1"), (b"a", b"2")])
    verdict = judged(answer, max_retries=3)
    assert isinstance(verdict, Complete)
    assert msgspec.json.decode(verdict.returnvalue) == {"status": status, "bytes": 1}
    name, stored = verdict.fields
    assert name == b"response"
    recorded = decode_response(stored)
    assert (recorded.status, recorded.reason, recorded.headers, recorded.body) == (
        status, "Why", [(b"A", b"1"), (b"a", b"2")], b"\xff",
    )  # fmt: skip


def test_a_reason_phrase_that_cannot_be_sent_again_is_not_kept() -> None:
    for reason, kept in (("R\xe9sum\xe9", "R\xe9sum\xe9"), ("a\x01b", ""), ("", "")):
        verdict = judged(answered(200, reason=reason))
        assert isinstance(verdict, Complete)
        assert decode_response(verdict.fields[1]).reason == kept


def test_an_answer_in_another_coding_fails_with_the_coding() -> None:
    failed = judged(CutOff("ERR_TRANSFER_CODING", coding_refused(b"gzip, chunked"), 0.1))
    assert isinstance(failed, Fail)
    assert failed.reason == (
        "the upstream's answer cannot be given back: The answer's body is in the transfer coding gzip, chunked, where "
        "only chunked is read"
    )


def test_the_reference_of_an_offloaded_body_is_stored() -> None:
    blob = reference("responses", "1", "response", b"large")
    verdict = judged(msgspec.structs.replace(answered(200), blob=blob))
    assert isinstance(verdict, Complete)
    assert msgspec.json.decode(verdict.returnvalue)["bytes"] == 5
    assert decode_response(verdict.fields[1]).blob == blob


@pytest.mark.parametrize(
    "outcome",
    [
        TimedOut("connect", 1.0),
        TimedOut("answer", 1.0),
        ConnectFailed("ECONNREFUSED", "Nothing accepts connections at api:3000", 0.1),
        CutOff("ECONNRESET", "The connection to api:3000 was closed", 0.1),
        answered(700),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_a_request_without_an_answer_is_retried_as_allowed_and_its_reason_names_no_address(
    outcome: Outcome,
) -> None:
    assert isinstance(judged(outcome), Fail)
    assert [type(judged(outcome, made, max_retries=2)) for made in range(3)] == [Retry, Retry, Fail]
    failed = judged(outcome)
    assert isinstance(failed, Fail)
    assert failed.reason
    assert "api" not in failed.reason


def test_an_answer_that_cannot_be_kept_says_why() -> None:
    failed = judged(CutOff("EBLOBS", "the folder is full", 0.1))
    assert isinstance(failed, Fail)
    assert failed.reason == "the upstream's answer could not be kept: the folder is full"


def test_the_pause_is_the_operators_or_the_fourth_power_of_the_attempt() -> None:
    failed = TimedOut("answer", 1.0)
    pauses = [judged(failed, made, max_retries=9) for made in range(5)]
    assert [pause.after_ms for pause in pauses if isinstance(pause, Retry)] == [1000, 16_000, 81_000, 256_000, 625_000]
    fixed = judged(failed, 4, max_retries=9, retry_delay_s=0.25)
    assert isinstance(fixed, Retry)
    assert fixed.after_ms == 250


def test_an_upstream_that_opts_in_is_asked_again_no_sooner_than_it_says() -> None:
    busy = answered(429, headers=[(b"Retry-After", b"7")])
    opted = {"retry_on": frozenset({429}), "max_retries": 1, "retry_delay_s": 0.1}
    verdict = judged(busy, **opted)
    assert isinstance(verdict, Retry)
    assert verdict.after_ms == 7000
    assert isinstance(judged(answered(503), **opted), Complete)
    assert isinstance(judged(busy, 1, **opted), Complete)
    endless = judged(answered(429, headers=[(b"Retry-After", b"999999")]), **opted)
    assert isinstance(endless, Retry)
    assert endless.after_ms == 3_600_000
