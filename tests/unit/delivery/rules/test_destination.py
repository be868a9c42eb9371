"""What reaches a target, and what each answer comes to."""

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.blob import StreamedBody
from toril.core.destination import OutboundRequest
from toril.core.http.signing import Secret
from toril.core.lease import Lease
from toril.core.outcome import BODY_UNREADABLE, Answered, ConnectFailed, CutOff, Outcome, TimedOut
from toril.core.stored_job import StoredOptions
from toril.core.verdict import Complete, DeadLetter, Retry, Verdict
from toril.delivery.rules.changes import Begun
from toril.delivery.rules.delivery import Delivery, Envelope
from toril.delivery.rules.destination import ATTEMPTS, REFUSED, Target, join
from toril.delivery.rules.journal_entry import JournalEntry
from toril.delivery.rules.lifecycle import Status
from toril.delivery.rules.retry_policy import RetryPolicy
from toril.delivery.rules.target import Signing, TargetAuth, TargetSpec
from toril.testing import answered

NOW = 1_700_000_000.0
JOB = "0193c0de-0000-7000-8000-000000000001"


def target(**spec: Any) -> Target:
    return Target(TargetSpec(**({"name": "billing", "url": "https://billing.internal/api"} | spec)), lambda: NOW)


def lease(envelope: Envelope | None = None, body: bytes | StreamedBody | None = b"{}", **delivery: Any) -> Lease:
    known: dict[str, Any] = {
        "job_id": JOB, "target": "billing", "status": Status.DISPATCHING, "seq": 2, "created_at_s": NOW,
        "updated_at_s": NOW, "max_attempts": 8, "attempts_begun": 1,
    }  # fmt: skip
    begun = Begun(Delivery(**(known | delivery)), envelope or Envelope())
    found = Lease(
        queue="deliver-billing",
        job_id=JOB.encode(),
        token=b"t",
        fields={},
        options=StoredOptions(b"{}"),
        attempts_made=0,
    )
    found.entry = JournalEntry(begun, body)
    return found


def lines(request: OutboundRequest) -> list[str]:
    return request.head.decode("latin-1").split("\r\n")[:-1]


def headers(request: OutboundRequest) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in lines(request)[1:])


def test_the_envelope_s_request_is_made_and_nothing_is_added_but_what_the_wire_says() -> None:
    envelope = Envelope(method="PUT", path="/v1/a%2Fb?x=%20", headers=(("X-One", "1"), ("x-one", "2"), ("A", "\xe4")))
    request = target().request(lease(envelope, b"body", attempts_begun=3))
    assert lines(request) == [
        "PUT /api/v1/a%2Fb?x=%20 HTTP/1.1",
        "host: billing.internal",
        "X-One: 1",
        "x-one: 2",
        "A: \xe4",
        f"toril-job-id: {JOB}",
        "toril-attempt: 3",
        f"idempotency-key: {JOB}",
        "content-length: 4",
    ]
    assert (request.body, request.timeout_s, request.framed, request.head_only) == (b"body", 30.0, True, False)


def test_an_authorization_of_the_envelope_is_sent_by_passthrough_alone() -> None:
    envelope = Envelope(headers=(("Authorization", "Bearer caller's"), ("Cookie", "a=b")))
    for scheme, sent in (("passthrough", "Bearer caller's"), ("none", None)):
        found = headers(target(auth=TargetAuth(scheme=scheme)).request(lease(envelope)))
        assert (found.get("Authorization"), found["Cookie"]) == (sent, "a=b")


def test_a_request_without_a_body_has_no_content_length() -> None:
    request = target().request(lease(Envelope(method="GET"), None))
    assert "content-length" not in headers(request)
    assert request.body == b""


def test_an_empty_body_is_sent_as_a_body() -> None:
    assert headers(target().request(lease(body=b"")))["content-length"] == "0"


def test_the_answer_to_a_head_request_has_no_body() -> None:
    assert target().request(lease(Envelope(method="HEAD"), None)).head_only


def test_a_large_body_is_streamed() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    body = StreamedBody(5_000_000, nothing)
    request = target().request(lease(body=body))
    assert (request.stream, request.body) == (body, b"")
    assert headers(request)["content-length"] == "5000000"


def test_the_caller_s_key_goes_on_to_the_target() -> None:
    assert headers(target().request(lease(idempotency_key="order-7")))["idempotency-key"] == "order-7"


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (TargetAuth(), ("authorization", None)),
        (TargetAuth(scheme="bearer", secret="s3cret"), ("authorization", "Bearer s3cret")),
        (
            TargetAuth(scheme="basic", secret="user:pass"),
            ("authorization", "Basic " + base64.b64encode(b"user:pass").decode()),
        ),
        (TargetAuth(scheme="header", header="X-Key", secret="s3cret"), ("X-Key", "s3cret")),
    ],
)
def test_a_target_s_own_auth_is_sent(auth: TargetAuth, expected: tuple[str, str | None]) -> None:
    name, value = expected
    assert headers(target(auth=auth).request(lease())).get(name) == value


def test_passthrough_sends_the_envelope_s_authorization() -> None:
    envelope = Envelope(headers=(("Authorization", "Bearer caller"),))
    request = target(auth=TargetAuth(scheme="passthrough")).request(lease(envelope))
    assert headers(request)["Authorization"] == "Bearer caller"


def test_a_header_that_the_auth_sets_is_never_the_envelope_s() -> None:
    envelope = Envelope(headers=(("Authorization", "Bearer caller"),))
    request = target(auth=TargetAuth(scheme="bearer", secret="own")).request(lease(envelope))
    assert [line for line in lines(request) if "uthorization" in line] == ["authorization: Bearer own"]


def test_signed_requests_can_be_verified_and_have_the_job_s_id() -> None:
    made = target(signing=Signing(secret_file="/x", secrets=(Secret(b"k" * 32), Secret(b"o" * 24))))
    signer = made.signer(JOB)
    assert signer is not None
    for piece in (b"bo", b"dy"):
        signer.update(piece)
    work = lease(body=b"body")
    assert work.entry is not None
    work.entry.signature = signer.headers()
    found = headers(made.request(work))
    assert (found["webhook-id"], found["webhook-timestamp"]) == (JOB, str(int(NOW)))
    signed = f"{JOB}.{int(NOW)}.body".encode()
    expected = [
        "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in (b"k" * 32, b"o" * 24)
    ]
    assert found["webhook-signature"].split(" ") == expected


def test_without_signing_nothing_is_signed() -> None:
    assert target().signer(JOB) is None


@pytest.mark.parametrize(
    ("url", "path", "expected"),
    [
        ("http://a", None, "/"),
        ("http://a/", None, "/"),
        ("http://a/x", None, "/x"),
        ("http://a/x/", None, "/x/"),
        ("http://a/x?k=1", None, "/x?k=1"),
        ("http://a", "/y", "/y"),
        ("http://a/", "/y", "/y"),
        ("http://a/x", "/y", "/x/y"),
        ("http://a/x/", "/y", "/x/y"),
        ("http://a/x/", "/", "/x/"),
        ("http://a/x", "/", "/x/"),
        ("http://a/x", "//y//z", "/x//y//z"),
        ("http://a/x", "?q=1", "/x?q=1"),
        ("http://a/x/", "?q=1", "/x/?q=1"),
        ("http://a", "?q=1", "/?q=1"),
        ("http://a/x?k=1", "/y?q=1&q=2", "/x/y?k=1&q=1&q=2"),
        ("http://a/x?k=1", "/y", "/x/y?k=1"),
        ("http://a/x", "/y?", "/x/y?"),
        ("http://a/x", "/%2e%41?%zz=%2F?&", "/x/%2e%41?%zz=%2F?&"),
        ("http://a/x", '/{a}|b"', '/x/{a}|b"'),
    ],
)
def test_path_and_url_are_joined_by_one_slash_and_kept(url: str, path: str | None, expected: str) -> None:
    request = target(url=url).request(lease(Envelope(path=path)))
    assert lines(request)[0] == f"POST {expected} HTTP/1.1"


@given(st.from_regex(r"\A[/?][!\"$-~]{0,20}\Z"))
def test_the_callers_path_is_appended_unchanged(path: str) -> None:
    joined = join(b"/api", b"", path).decode()
    assert joined == "/api" + path


def verdict(outcome: Outcome, chance: float = 0.0, spec: dict[str, Any] | None = None, **delivery: Any) -> Verdict:
    return target(**(spec or {})).judge(lease(**delivery), outcome, lambda: chance)


def test_a_2xx_answer_is_delivered() -> None:
    for status in (200, 201, 202, 204, 299):
        assert verdict(answered(status)) == Complete(b"null")


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 425, 429, 500, 502, 503, 599])
def test_a_temporary_failure_status_is_retried(status: int) -> None:
    found = verdict(answered(status, reason="Why"))
    assert isinstance(found, Retry)
    assert (found.after_ms, found.reason) == (5000, f"HTTP {status} Why")


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 400, 402, 405, 410, 422, 451])
def test_a_permanent_failure_status_makes_a_dead_letter_at_once(status: int) -> None:
    assert verdict(answered(status, reason="Why")) == DeadLetter(REFUSED, f"HTTP {status} Why")


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (TimedOut("answer", 30.0), "within 30s"),
        (ConnectFailed("ECONNREFUSED", "Nothing accepts", 0.1), "ECONNREFUSED"),
        (CutOff("ECONNRESET", "closed", 0.1), "ECONNRESET"),
    ],
)
def test_no_answer_is_tried_again_whatever_the_target_says_of_statuses(outcome: Outcome, says: str) -> None:
    found = verdict(outcome, spec={"retry": RetryPolicy(retry_on=frozenset(), fail_on=frozenset({500}))})
    assert isinstance(found, Retry)
    assert says in found.reason


def test_a_target_may_set_which_statuses_are_retried() -> None:
    spec = {"retry": RetryPolicy(retry_on=frozenset({400, 500, 503}), fail_on=frozenset({503}))}
    assert isinstance(verdict(answered(400), spec=spec), Retry)
    assert isinstance(verdict(answered(500), spec=spec), Retry)
    assert isinstance(verdict(answered(503), spec=spec), DeadLetter)
    assert isinstance(verdict(answered(429), spec=spec), DeadLetter)


def test_the_last_attempt_is_not_retried() -> None:
    assert isinstance(verdict(answered(500), attempts_made=14), Retry)
    assert verdict(answered(500, reason="X"), attempts_made=15) == DeadLetter(ATTEMPTS, "HTTP 500 X")
    assert isinstance(verdict(answered(200), attempts_made=15), Complete)


def test_a_retry_past_the_deadline_makes_a_dead_letter() -> None:
    assert isinstance(verdict(answered(500), deadline_s=NOW + 5.5), Retry)
    found = verdict(answered(500), deadline_s=NOW + 5.0)
    assert isinstance(found, DeadLetter)
    assert found.reason == "deadline"


@pytest.mark.parametrize(
    ("value", "after_ms"),
    [
        (b"7", 7000), (b"0", 5000), (b"100000", 21_600_000), (b"soon", 5000), (b"-3", 5000), (b"", 5000),
        (b"Tue, 14 Nov 2023 22:13:40 GMT", 20_000), (b"Tue, 14 Nov 2000 22:13:40 GMT", 5000),
    ],
)  # fmt: skip
def test_retry_after_is_a_floor_and_has_a_ceiling(value: bytes, after_ms: int) -> None:
    found = verdict(answered(503, headers=[(b"Retry-After", value)]))
    assert isinstance(found, Retry)
    assert found.after_ms == after_ms


@pytest.mark.parametrize(
    ("outcome", "fails"),
    [
        (answered(200), False), (answered(204), False), (answered(301), False), (answered(400), False),
        (answered(401), True), (answered(403), True), (answered(404), True), (answered(408), True),
        (answered(429), True), (answered(500), True), (answered(503), True),
        (TimedOut("answer", 1.0), True), (ConnectFailed("ECONNREFUSED", "", 0.1), True),
        (ConnectFailed("EMFILE", "", 0.0, exhausted=True), False),
        (CutOff("ECONNRESET", "", 0.1), True), (CutOff(BODY_UNREADABLE, "", 0.1), False),
    ],
)  # fmt: skip
def test_a_retried_attempt_counts_as_a_failure_of_the_target(outcome: Outcome, fails: bool) -> None:
    assert target().failing(outcome) is fails


def test_an_attempt_that_is_not_retried_is_no_failure_of_the_target() -> None:
    made = target(retry=RetryPolicy(retry_on=frozenset({400, 500}), fail_on=frozenset({500})))
    assert [made.failing(answered(status)) for status in (400, 500, 401)] == [True, False, False]
    assert made.failing(TimedOut("answer", 1.0))


@pytest.mark.parametrize(
    ("status", "value", "hold_s"),
    [
        (429, b"120", 120), (503, b"120", 120), (500, b"120", 0), (200, b"120", 0), (429, b"soon", 0), (429, b"0", 0),
        (503, b"100000", 21_600), (429, b"Tue, 14 Nov 2023 22:13:40 GMT", 19.5),
    ],
)  # fmt: skip
def test_429_and_503_with_retry_after_hold_the_target(status: int, value: bytes, hold_s: float) -> None:
    assert target().hold_s(answered(status, headers=[(b"Retry-After", value)])) == pytest.approx(hold_s, abs=0.6)
    assert target().hold_s(answered(status)) == 0
    assert target().hold_s(TimedOut("answer", 1.0)) == 0


@given(
    st.integers(1, 10_000),
    st.floats(0, 0.999),
    st.builds(
        RetryPolicy,
        max_attempts=st.just(100_000),
        backoff=st.sampled_from(["exponential", "fixed"]),
        base_s=st.floats(0, 100),
        max_s=st.floats(100, 10_000),
        jitter=st.floats(0, 1),
    ),
    st.integers(0, 100_000),
)
def test_no_wait_is_longer_than_the_policy_s_longest(
    attempts_made: int, chance: float, policy: RetryPolicy, hint_s: int
) -> None:
    answer = Answered(503, "", [(b"retry-after", b"%d" % hint_s)], b"", 0.1)
    found = verdict(answer, chance, {"retry": policy}, attempts_made=attempts_made)
    assert isinstance(found, Retry)
    assert min(hint_s, policy.max_s) * 1000 - 1 <= found.after_ms <= policy.max_s * 1000 + 1


def test_a_renewed_target_has_new_secrets_and_a_new_policy() -> None:
    made = target(auth=TargetAuth(scheme="bearer", secret="old"))
    spec = TargetSpec(
        name="billing",
        url="https://billing.internal/api",
        auth=TargetAuth(scheme="bearer", secret="new"),
        retry=RetryPolicy(max_attempts=1),
    )
    made.renew(spec)
    assert headers(made.request(lease()))["authorization"] == "Bearer new"
    assert isinstance(made.judge(lease(), answered(500), lambda: 0.0), DeadLetter)


def test_requests_of_the_same_kind_have_their_own_numbers_keys_and_bodies() -> None:
    billing = target()
    envelope = Envelope(path="/orders", headers=(("X-One", "1"),))
    billing.request(lease(envelope))
    again = billing.request(lease(envelope, b"[1]", attempts_begun=7, idempotency_key="k"))
    fresh = target().request(lease(envelope, b"[1]", attempts_begun=7, idempotency_key="k"))
    assert (again.head, again.body) == (fresh.head, fresh.body)


def test_a_header_that_new_auth_sets_is_taken_from_envelopes_that_were_sent_before() -> None:
    billing = target(auth=TargetAuth(scheme="passthrough"))
    envelope = Envelope(headers=(("Authorization", "theirs"),))
    assert headers(billing.request(lease(envelope)))["Authorization"] == "theirs"
    bearer = TargetAuth(scheme="bearer", secret="ours")
    billing.renew(TargetSpec(name="billing", url="https://billing.internal/api", auth=bearer))
    sent = lines(billing.request(lease(envelope)))
    assert "authorization: Bearer ours" in sent
    assert "Authorization: theirs" not in sent


def test_of_envelopes_only_those_that_differ_in_nothing_but_their_body_are_known() -> None:
    billing = target()
    sent = Envelope(method="PUT", path="/a", headers=(("X-One", "1"),))
    assert not billing.knows(sent)
    billing.request(lease(sent))
    assert billing.knows(sent)
    for other in ({"method": "POST"}, {"path": None}, {"path": "/b"}, {"headers": (("X-One", "2"),)}):
        assert not billing.knows(Envelope(**({"method": "PUT", "path": "/a", "headers": (("X-One", "1"),)} | other)))


def test_many_kinds_of_envelopes_are_not_all_kept() -> None:
    billing = target()
    kinds = [Envelope(path=f"/{number}") for number in range(1000)]
    for kind in kinds:
        billing.request(lease(kind))
    assert 1 <= sum(map(billing.knows, kinds)) <= 32
    large = Envelope(headers=(("X-Large", "a" * 5000),))
    billing.request(lease(large))
    assert not billing.knows(large)
