"""What is hidden of callers' secrets, and that all else keeps its bytes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.redaction import HIDDEN, USUAL, Redaction
from toril.proxy.rules.envelope import RecordedRequest, decode_request, encode_request

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
        shown = USUAL.text(json.dumps({kind: "x", "headers": headers}).encode(), b"data")
        assert SECRET.encode() not in shown
        hidden = json.loads(shown)
        assert hidden[kind] == "x"
        assert HIDDEN in json.dumps(hidden["headers"])
        assert ("a" in json.dumps(hidden["headers"])) is ("a" in json.dumps(headers))


def test_a_recorded_request_loses_its_secrets_and_nothing_else() -> None:
    headers = [(b"a", b"1"), (b"authorization", SECRET.encode()), (b"cookie", b"c=" + SECRET.encode()), (b"a", b"\xff")]
    request = RecordedRequest(method="POST", target="/x", headers=headers, body=b"\x00\xff", timeout_s=0.1)
    shown = USUAL.text(encode_request(request), b"data")
    assert SECRET.encode() not in shown
    read = decode_request(shown)
    assert (read.method, read.target, read.body, read.timeout_s) == ("POST", "/x", b"\x00\xff", 0.1)
    assert [pair for pair in read.headers if pair[0] == b"a"] == [(b"a", b"1"), (b"a", b"\xff")]


def test_numbers_keep_their_digits_where_something_is_hidden() -> None:
    stored = b'{"target":"/","n":12345678901234567890.10,"headers":[["cookie","x"]],"e":1e400,"o":{"b" : 1.0}}'
    assert USUAL.text(stored, b"data") == (
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
def test_text_without_secrets_is_returned_byte_for_byte(stored: bytes) -> None:
    assert USUAL.text(stored, b"data") is stored


def test_names_that_are_spelled_with_escapes_are_found() -> None:
    stored = b'{"t\\u0061rget":"/","h\\u0065aders":[["auth\\u006frization","s3cr3t"]]}'
    assert SECRET.encode() not in USUAL.text(stored, b"data")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(JSON)
def test_data_without_secrets_is_returned_unchanged(data: object) -> None:
    stored = json.dumps(data).encode()
    assert USUAL.text(stored, b"data") is stored


def test_of_a_job_data_progress_and_return_value_are_looked_at() -> None:
    envelope = b'{"status":200,"headers":[["set-cookie","s3cr3t"]]}'
    fields = {b"name": b"x", b"data": envelope, b"progress": envelope, b"returnvalue": envelope, b"ats": b"1"}
    shown = USUAL.fields(fields)
    assert SECRET.encode() not in b"".join(shown.values())
    assert (shown[b"name"], shown[b"ats"]) == (b"x", b"1")
    ordinary = {b"name": b"x", b"data": b'{"n":1.0}'}
    assert USUAL.fields(ordinary) is ordinary


def test_of_an_event_each_field_is_looked_at() -> None:
    event = b'{"jobId":"1","returnvalue":{"status":200,"n":1.0,"headers":[["set-cookie","s3cr3t"]]},"prev":"active"}'
    assert USUAL.event(event) == event.replace(b"s3cr3t", b"(hidden)")
    for ordinary in (b'{"jobId":"1"}', b'{"returnvalue":{ "headers":{"a":1.0}}}', b"{}"):
        assert USUAL.event(ordinary) is ordinary


def test_headers_of_an_answer_are_hidden_by_the_usual_names_and_further_ones() -> None:
    headers = (("Set-Cookie", "a"), ("X-Key", "b"), ("x", "c"), ("set-cookie", "d"))
    assert USUAL.headers(headers, ["x-KEY"]) == (
        ("Set-Cookie", HIDDEN), ("X-Key", HIDDEN), ("x", "c"), ("set-cookie", HIDDEN),
    )  # fmt: skip
    assert USUAL.headers(headers)[1] == ("X-Key", "b")


@pytest.mark.parametrize(
    ("path", "stored", "shown"),
    [
        (
            "data.card.number",
            '{"card":{"number":42,"name":"x"},"n":1.50}',
            '{"card":{"number":"(hidden)","name":"x"},"n":1.50}',
        ),
        ("data.card", '{"card":[1]}', '{"card":"(hidden)"}'),
        ("data.card.*", '{"card":{"a":1,"b":{"c":2}}}', '{"card":{"a":"(hidden)","b":"(hidden)"}}'),
        ("data.*.pin", '{"a":{"pin":1},"b":2}', '{"a":{"pin":"(hidden)"},"b":2}'),
        (
            "data.cards.pin",
            '{"cards":[{"pin":1},{"n":1e400},[{"pin":2}]]}',
            '{"cards":[{"pin":"(hidden)"},{"n":1e400},[{"pin":"(hidden)"}]]}',
        ),
        ("data.pin", '{"p\\u0069n":1}', '{"pin":"(hidden)"}'),
        ("data.pin", '{"other": 1}', '{"other": 1}'),
        ("data.pin", "no JSON", "no JSON"),
        ("progress.pin", '{"pin":1}', '{"pin":1}'),
    ],
)
def test_fields_named_by_a_path_are_hidden_and_the_rest_keeps_its_digits(path: str, stored: str, shown: str) -> None:
    assert Redaction([path]).text(stored.encode(), b"data").decode() == shown


def test_lists_in_lists_without_end_hide_nothing_less() -> None:
    deep = b"[" * 500 + b'{"pin":1}' + b"]" * 500
    assert b'"pin"' not in Redaction(["data.pin"]).text(deep, b"data")


def test_further_headers_are_hidden_in_any_case() -> None:
    request = b'{"target":"/","headers":[["X-Key","1"],["a","b"]]}'
    assert b'["X-Key","(hidden)"]' in Redaction(["headers.x-key"]).text(request, b"data")
    assert USUAL.text(request, b"data") == request


def test_events_hide_what_is_hidden_in_a_job() -> None:
    redaction = Redaction(["progress.pin", "returnvalue.pin"])
    for field in ("data", "returnvalue"):
        assert redaction.event(b'{"%b":{"pin":1}}' % field.encode()) == b'{"%b":{"pin":"(hidden)"}}' % field.encode()


@pytest.mark.parametrize("path", ["", "card", "data", "data.", "data..x", "opts.x", "headers.", "headers.a b"])
def test_an_invalid_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        Redaction([path])
