"""What is hidden of callers' secrets, and that all else keeps its bytes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.envelope import RecordedRequest, decode_request, encode_request
from toril.core.redaction import (
    HIDDEN,
    event_without_secrets,
    fields_without_secrets,
    headers_without_secrets,
    without_secrets,
)

SECRET = "s3cr3t"
NAMES = ["authorization", "Authorization", "COOKIE", "set-cookie", "Set-Cookie2", "proxy-authorization", " cookie "]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["target", "status"])
def test_secret_headers_of_requests_and_answers_are_hidden_as_pairs_and_as_an_object(name: str, kind: str) -> None:
    for headers in (
        [["a", "1"], [name, SECRET], ["b", "2"], [name, SECRET]],
        [[name, SECRET, SECRET]],
        {"a": "1", name: SECRET},
        {name: [SECRET, SECRET]},
    ):
        shown = without_secrets(json.dumps({kind: "x", "headers": headers}).encode())
        assert SECRET.encode() not in shown
        hidden = json.loads(shown)
        assert hidden[kind] == "x"
        assert HIDDEN in json.dumps(hidden["headers"])
        assert ("a" in json.dumps(hidden["headers"])) is ("a" in json.dumps(headers))


def test_a_recorded_request_loses_its_secrets_and_nothing_else() -> None:
    headers = [(b"a", b"1"), (b"authorization", SECRET.encode()), (b"cookie", b"c=" + SECRET.encode()), (b"a", b"\xff")]
    request = RecordedRequest(method="POST", target="/x", headers=headers, body=b"\x00\xff", timeout_s=0.1)
    shown = without_secrets(encode_request(request))
    assert SECRET.encode() not in shown
    read = decode_request(shown)
    assert (read.method, read.target, read.body, read.timeout_s) == ("POST", "/x", b"\x00\xff", 0.1)
    assert [pair for pair in read.headers if pair[0] == b"a"] == [(b"a", b"1"), (b"a", b"\xff")]


def test_numbers_keep_their_digits_where_something_is_hidden() -> None:
    stored = b'{"target":"/","n":12345678901234567890.10,"headers":[["cookie","x"]],"e":1e400,"o":{"b" : 1.0}}'
    assert without_secrets(stored) == (
        b'{"target":"/","n":12345678901234567890.10,"headers":[["cookie","(hidden)"]],"e":1e400,"o":{"b" : 1.0}}'
    )


@pytest.mark.parametrize(
    "stored",
    [
        b'{"headers":{"authorization":"x"}}',
        b'{"target":"/","body":"cookie"}',
        b'{ "target" : "/", "headers": [["a", "1"]], "n": 1.00 }',
        b'{"target":"/","headers":"authorization: x"}',
        b'{"target":"/","headers":[1,null,["a"],[],[["authorization"],"x"]]}',
        b'["headers",{"cookie":1}]',
        b'"headers"',
        b'{"headers":',
        b'"headers" \xff',
        b"[" * 100_000 + b'"headers"',
        b"7",
        b"",
    ],
)
def test_what_hides_nothing_is_given_back_byte_for_byte(stored: bytes) -> None:
    assert without_secrets(stored) is stored


def test_names_that_are_spelled_with_escapes_are_found() -> None:
    stored = b'{"t\\u0061rget":"/","h\\u0065aders":[["auth\\u006frization","s3cr3t"]]}'
    assert SECRET.encode() not in without_secrets(stored)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(JSON)
def test_other_data_never_changes(data: object) -> None:
    stored = json.dumps(data).encode()
    assert without_secrets(stored) is stored


def test_of_a_job_data_progress_and_return_value_are_looked_at() -> None:
    envelope = b'{"status":200,"headers":[["set-cookie","s3cr3t"]]}'
    fields = {b"name": b"x", b"data": envelope, b"progress": envelope, b"returnvalue": envelope, b"ats": b"1"}
    shown = fields_without_secrets(fields)
    assert SECRET.encode() not in b"".join(shown.values())
    assert (shown[b"name"], shown[b"ats"]) == (b"x", b"1")
    ordinary = {b"name": b"x", b"data": b'{"n":1.0}'}
    assert fields_without_secrets(ordinary) is ordinary


def test_of_an_event_each_field_is_looked_at() -> None:
    event = b'{"jobId":"1","returnvalue":{"status":200,"n":1.0,"headers":[["set-cookie","s3cr3t"]]},"prev":"active"}'
    assert event_without_secrets(event) == event.replace(b"s3cr3t", b"(hidden)")
    for ordinary in (b'{"jobId":"1"}', b'{"returnvalue":{ "headers":{"a":1.0}}}', b"{}"):
        assert event_without_secrets(ordinary) is ordinary


def test_headers_of_an_answer_are_hidden_by_the_usual_names_and_further_ones() -> None:
    headers = (("Set-Cookie", "a"), ("X-Key", "b"), ("x", "c"), ("set-cookie", "d"))
    assert headers_without_secrets(headers, ["x-KEY"]) == (
        ("Set-Cookie", HIDDEN), ("X-Key", HIDDEN), ("x", "c"), ("set-cookie", HIDDEN),
    )  # fmt: skip
    assert headers_without_secrets(headers)[1] == ("X-Key", "b")
