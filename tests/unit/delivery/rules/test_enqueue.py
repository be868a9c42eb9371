"""What `POST /enqueue` takes, field by field (wire/delivery.md)."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from toril.core.errors import EnvelopeTooLarge, InvalidEnvelope
from toril.core.times import moment_text
from toril.delivery.rules.delivery import Envelope, NewDelivery
from toril.delivery.rules.enqueue import (
    NOT_ALLOWED,
    EnqueueRequest,
    check_reserved,
    check_times,
    moment_s,
    read_batch,
    read_envelope,
    unsendable,
)
from toril.delivery.rules.row_codec import UNREADABLE
from toril.delivery.rules.target import AuthScheme, TargetAuth

NOW_S = 1_700_000_000.0


def read(envelope: dict[str, Any] | bytes, **more: Any) -> EnqueueRequest:
    text = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
    return read_envelope(text, **({"key": None, "max_body_bytes": 1000} | more))


def refused(envelope: dict[str, Any] | bytes, **more: Any) -> InvalidEnvelope:
    with pytest.raises(InvalidEnvelope) as caught:
        read(envelope, **more)
    return caught.value


def test_an_envelope_needs_only_a_target() -> None:
    assert read({"target": "billing"}) == EnqueueRequest(
        target="billing", method="POST", path=None, headers=(), body=None, json_body=None, delay_s=None,
        not_before_s=None, deadline_s=None, priority=0, labels={}, idempotency_key=None,
    )  # fmt: skip


def test_every_other_field_of_an_envelope_is_read() -> None:
    submission = read(
        {
            "target": "billing", "method": "PURGE", "path": "/a%2Fb?c=%20", "headers": {"X-A": ["1", "2"], "x-b": ""},
            "body": {"a": 1}, "delay_ms": 1500, "deadline": "2027-01-01T00:00:00+01:00", "priority": 2097152,
            "labels": {"order": "7"},
        },
        key="k",
    )  # fmt: skip
    assert (submission.method, submission.path) == ("PURGE", "/a%2Fb?c=%20")
    assert submission.headers == (("X-A", "1"), ("X-A", "2"), ("x-b", ""), ("content-type", "application/json"))
    assert (submission.body, submission.delay_s, submission.priority) == (b'{"a": 1}', 1.5, 2097152)
    assert submission.deadline_s == 1798758000.0
    assert (submission.labels, submission.idempotency_key) == ({"order": "7"}, "k")


@pytest.mark.parametrize(
    ("envelope", "field"),
    [
        ({}, "target"),
        ({"target": ""}, "target"),
        ({"target": 1}, "target"),
        ({"target": None}, "target"),
        ({"target": "b", "method": "GE T"}, "method"),
        ({"target": "b", "method": ""}, "method"),
        ({"target": "b", "method": "connect"}, "method"),
        ({"target": "b", "path": ""}, "path"),
        ({"target": "b", "path": "a"}, "path"),
        ({"target": "b", "path": "http://b/a"}, "path"),
        ({"target": "b", "path": "/a#b"}, "path"),
        ({"target": "b", "path": "/a b"}, "path"),
        ({"target": "b", "path": "/a\n"}, "path"),
        ({"target": "b", "path": "/é"}, "path"),
        ({"target": "b", "path": "/a/../b"}, "path"),
        ({"target": "b", "path": "/."}, "path"),
        ({"target": "b", "path": "/a/%2E%2e"}, "path"),
        ({"target": "b", "path": "/a/%2e%2e%2fb"}, "path"),
        ({"target": "b", "path": "/a/..\\b"}, "path"),
        ({"target": "b", "path": None}, "path"),
        ({"target": "b", "headers": {"a b": "c"}}, "headers"),
        ({"target": "b", "headers": {"é": "c"}}, "headers"),
        ({"target": "b", "headers": {"a": "b\r\nc: d"}}, "headers"),
        ({"target": "b", "headers": {"a": "€"}}, "headers"),
        ({"target": "b", "headers": {"a": ["b", 1]}}, "headers"),
        ({"target": "b", "headers": {"a": 1}}, "headers"),
        ({"target": "b", "headers": {"toril-job-id": "x"}}, "headers"),
        ({"target": "b", "headers": {"Webhook-Signature": "x"}}, "headers"),
        ({"target": "b", "headers": {"content-type": ["a/b", "c/d"]}}, "headers"),
        *(({"target": "b", "headers": {name.title(): "x"}}, "headers") for name in sorted(NOT_ALLOWED)),
        ({"target": "b", "body": 1, "body_base64": "MQ=="}, "body_base64"),
        ({"target": "b", "body_base64": "?"}, "body_base64"),
        ({"target": "b", "body_base64": "MQ"}, "body_base64"),
        ({"target": "b", "body_base64": "é"}, "body_base64"),
        ({"target": "b", "headers": {"content-type": "text/plain"}, "body": "\ud800"}, None),
        ({"target": "b", "delay_ms": -1}, "delay_ms"),
        ({"target": "b", "delay_ms": 1.5}, "delay_ms"),
        ({"target": "b", "delay_ms": "1"}, "delay_ms"),
        ({"target": "b", "delay_ms": 10**15}, "delay_ms"),
        ({"target": "b", "delay_ms": 1, "not_before": "2027-01-01T00:00:00Z"}, "not_before"),
        ({"target": "b", "not_before": "2027-01-01T00:00:00"}, "not_before"),
        ({"target": "b", "not_before": "2027-01-01"}, "not_before"),
        ({"target": "b", "deadline": "soon"}, "deadline"),
        ({"target": "b", "deadline": "2027-13-01T00:00:00Z"}, "deadline"),
        ({"target": "b", "deadline": 1}, "deadline"),
        ({"target": "b", "deadline": "9999-12-31T23:59:59-14:00"}, "deadline"),
        ({"target": "b", "not_before": "0001-01-01T00:00:00+14:00"}, "not_before"),
        ({"target": "b", "not_before": "2016-12-31T23:59:60Z"}, "not_before"),
        ({"target": "b", "not_before": "2027-01-01T00:00:00+24:00"}, "not_before"),
        ({"target": "b", "not_before": "\uff12027-01-01T00:00:00Z"}, "not_before"),
        ({"target": "b", "delay_ms": 10**400}, "delay_ms"),
        ({"target": "b", "headers": {"Expect": "100-continue"}}, "headers"),
        ({"target": "b", "priority": -1}, "priority"),
        ({"target": "b", "priority": 2097153}, "priority"),
        ({"target": "b", "priority": True}, "priority"),
        ({"target": "b", "labels": {"a": 1}}, "labels"),
        ({"target": "b", "labels": {"": "a"}}, "labels"),
        ({"target": "b", "labels": {"a": "b" * 501}}, "labels"),
        ({"target": "b", "labels": {"a": "b\x00"}}, "labels"),
        ({"target": "b", "labels": {str(n): "" for n in range(33)}}, "labels"),
        ({"target": "b", "idempotency_key": "k"}, "idempotency_key"),
        ({"target": "b", "tarket": "b"}, "tarket"),
    ],
)
def test_an_invalid_envelope_is_refused_and_the_field_is_named(envelope: dict[str, Any], field: str | None) -> None:
    assert refused(envelope).field == field


@pytest.mark.parametrize("text", [b"", b"[]", b"7", b"{", b'{"target":"b","body":}', b'{"target":"\xff"}'])
def test_a_body_that_is_no_envelope_is_refused(text: bytes) -> None:
    assert refused(text).field is None


def test_endlessly_nested_json_is_refused() -> None:
    assert "nested" in refused(b'{"target":"b","body":' + b"[" * 100_000).message


def test_a_json_body_is_sent_as_it_was_written() -> None:
    submission = read(b'{"target":"b","body": {"n":1.0,  "big":123456789012345678901234567890, "n":2}}')
    assert submission.body == b'{"n":1.0,  "big":123456789012345678901234567890, "n":2}'


def test_a_null_body_is_sent_as_null_and_a_missing_one_is_no_body() -> None:
    assert read({"target": "b", "body": None}).body == b"null"
    assert read({"target": "b"}).body is None
    assert read({"target": "b"}).headers == ()


def test_a_text_with_a_content_type_is_sent_as_text() -> None:
    submission = read({"target": "b", "headers": {"Content-Type": "text/csv"}, "body": "a,b\né"})
    assert (submission.body, submission.json_body) == ("a,b\né".encode(), None)
    assert submission.headers == (("Content-Type", "text/csv"),)


@pytest.mark.parametrize("kind", ["application/json", "application/cloudevents+json; charset=utf-8", "Text/JSON"])
def test_a_text_with_a_json_type_is_sent_as_json(kind: str) -> None:
    assert read({"target": "b", "headers": {"content-type": kind}, "body": "a"}).body == b'"a"'


def test_any_other_json_value_is_sent_as_json_whatever_its_type_says() -> None:
    assert read({"target": "b", "headers": {"content-type": "text/plain"}, "body": [1]}).body == b"[1]"


def test_a_binary_body_is_decoded_and_gets_no_content_type() -> None:
    submission = read({"target": "b", "body_base64": base64.b64encode(b"\x00\xff").decode()})
    assert (submission.body, submission.headers) == (b"\x00\xff", ())


def test_the_size_limit_counts_the_decoded_body() -> None:
    assert read({"target": "b", "body_base64": base64.b64encode(bytes(1000)).decode()}).body == bytes(1000)
    for envelope in (
        {"target": "b", "body_base64": base64.b64encode(bytes(1001)).decode()},
        {"target": "b", "body": "x" * 999},
    ):
        with pytest.raises(EnvelopeTooLarge):
            read(envelope)


def test_the_first_attempt_is_due_after_the_delay_or_at_its_time_and_the_past_is_now() -> None:
    assert read({"target": "b", "delay_ms": 250}).first_attempt_at_s(NOW_S) == NOW_S + 0.25
    assert read({"target": "b", "delay_ms": 0}).first_attempt_at_s(NOW_S) is None
    assert read({"target": "b", "not_before": "2033-01-01T00:00:00Z"}).first_attempt_at_s(NOW_S) == 1988150400.0
    assert read({"target": "b", "not_before": "2001-01-01T00:00:00Z"}).first_attempt_at_s(NOW_S) is None


def test_an_envelope_of_a_batch_carries_its_own_key() -> None:
    assert read({"target": "b", "idempotency_key": "k"}, batched=True).idempotency_key == "k"
    assert read({"target": "b"}, batched=True).idempotency_key is None
    assert refused({"target": "b", "idempotency_key": "a b"}, batched=True).field == "idempotency_key"
    assert refused({"target": "b", "idempotency_key": "a" * 256}, batched=True).field == "idempotency_key"


def test_a_batch_is_taken_apart_and_its_envelopes_are_not_looked_at() -> None:
    assert read_batch(b'[{"target":"a"}, 7]') == [b'{"target":"a"}', b"7"]
    assert len(read_batch(b"[" + b",".join([b"0"] * 1000) + b"]")) == 1000


@pytest.mark.parametrize("text", [b"{}", b"", b"[", b'["\xff"]', b"[" + b",".join([b"0"] * 1001) + b"]"])
def test_an_invalid_or_too_large_batch_is_refused_whole(text: bytes) -> None:
    with pytest.raises(InvalidEnvelope):
        read_batch(text)


def test_the_header_that_the_target_sets_itself_is_refused() -> None:
    submission = read({"target": "b", "headers": {"X-Api-Key": "k", "cookie": "c"}})
    check_reserved(submission, TargetAuth())
    check_reserved(submission, TargetAuth(scheme="bearer"))
    with pytest.raises(InvalidEnvelope, match="X-Api-Key is set by the target's own auth") as caught:
        check_reserved(submission, TargetAuth(scheme="header", header="x-API-key"))
    assert caught.value.field == "headers"


@pytest.mark.parametrize("name", ["authorization", "Authorization", "AUTHORIZATION"])
def test_an_authorization_is_refused_by_every_scheme_but_passthrough(name: str) -> None:
    submission = read({"target": "b", "headers": {name: "Bearer k"}})
    check_reserved(submission, TargetAuth(scheme="passthrough"))
    others: tuple[AuthScheme, ...] = ("none", "bearer", "basic", "header")
    for scheme in others:
        with pytest.raises(InvalidEnvelope, match=name) as caught:
            check_reserved(submission, TargetAuth(scheme=scheme, header="X-Key" if scheme == "header" else None))
        assert caught.value.field == "headers"


def test_times_may_be_written_as_rfc_3339_has_it() -> None:
    for text in (
        "2027-01-01T00:00:00Z", "2027-01-01t01:00:00.000+01:00", "2026-12-31 23:59:59.999999999z",
        "2027-01-01T00:00:00." + 30 * "0" + "Z", "2026-12-31T10:00:00-14:00",
    ):  # fmt: skip
        assert round(moment_s(text, "deadline")) == 1798761600


def test_times_are_within_ten_years() -> None:
    for field in ("not_before", "deadline"):
        check_times(read({"target": "b", field: moment_text(NOW_S + 3652 * 86400)}), NOW_S)
        check_times(read({"target": "b", field: "0001-01-01T00:00:00Z"}), NOW_S)
        for late in (moment_text(NOW_S + 3654 * 86400), "9999-12-31T23:59:59Z"):
            with pytest.raises(InvalidEnvelope) as caught:
                check_times(read({"target": "b", field: late}), NOW_S)
            assert caught.value.field == field


@given(st.text(max_size=8))
def test_a_path_is_either_kept_as_sent_or_refused(path: str) -> None:
    try:
        submission = read({"target": "b", "path": path})
    except InvalidEnvelope:
        return
    assert submission.path == path
    assert path[0] in "/?"
    assert not set(path) & set("# \r\n\x00")


def inside(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(part) | st.dictionaries(st.text(), part)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), inside, max_leaves=5))
def test_any_json_value_arrives_as_it_was_posted(value: Any) -> None:
    text = json.dumps(value).encode()
    submission = read(b'{"target":"b","body":' + text + b"}", max_body_bytes=10**6)
    assert submission.body == text


@pytest.mark.parametrize(
    ("field", "longest", "too_long"),
    [
        ("path", "/" + "a" * 16_383, "/" + "a" * 16_384),
        ("method", "M" * 64, "M" * 65),
        ("headers", {"a": ["b" * 32_763] * 2}, {"a": ["b" * 32_764] * 2}),
        ("headers", {"a" * 100: "b" * 65_432}, {"a" * 101: "b" * 65_432}),
        ("target", "t" * 64, "t" * 65),
        ("labels", {"n" * 100: "v" * 500}, {"n" * 101: "v"}),
        ("labels", {str(n): "v" for n in range(32)}, {str(n): "v" for n in range(33)}),
        ("idempotency_key", "k" * 255, "k" * 256),
    ],
)
def test_fields_stored_in_a_head_or_a_row_are_bounded(field: str, longest: Any, too_long: Any) -> None:
    assert read({"target": "b"} | {field: longest}, batched=True)
    for length in (too_long, too_long * 1000 if isinstance(too_long, str) else too_long):
        error = refused({"target": "b"} | {field: length}, batched=True)
        assert error.field == field
        assert len(error.message) < 500


def test_empty_headers_count_towards_the_limit() -> None:
    assert refused({"target": "b", "headers": {"a": [""] * 14_000}}).field == "headers"


def test_an_unknown_field_is_not_shown_in_full() -> None:
    error = refused({"target": "b", "x" * 100_000: 1})
    assert len(error.message) < 500
    assert len(error.field or "") < 500


def test_a_delivery_of_a_known_envelope_is_still_refused_for_its_own_id_and_key() -> None:
    one = NewDelivery(job_id="1", target="billing", envelope=Envelope(), at_s=0.0, max_attempts=1, by="").queued()
    assert unsendable(one, Envelope(), known=True) is None
    assert unsendable(replace(one, job_id="1\r\n2"), Envelope(), known=True)
    assert unsendable(replace(one, idempotency_key="a\r\nb"), Envelope(), known=True)
    assert unsendable(one, UNREADABLE, known=True)
