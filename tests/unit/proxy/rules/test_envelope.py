"""Recorded requests and responses come back byte for byte, and are JSON that a person can read."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.blob import reference
from toril.proxy.rules.envelope import (
    RecordedRequest,
    RecordedResponse,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)

NAMES = st.from_regex(rb"x[!#$%&'*+.^_`|~0-9A-Za-z-]{0,19}", fullmatch=True)
HEADERS = st.lists(st.tuples(NAMES, st.from_regex(rb"[\t\x20-\x7e\x80-\xff]{0,60}", fullmatch=True)), max_size=8)
METHODS = st.sampled_from(["GET", "POST", "M-SEARCH", "purge", "x!#$%&'*+.^_`|~"])
# Without what could be a dot segment; `test_paths` is about those.
TARGETS = st.from_regex(r"/[\x21-\x24\x26-\x2d\x2f-\x7e\x80-\xff]{0,40}", fullmatch=True)
BODIES = st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode))


@given(method=METHODS, target=TARGETS, headers=HEADERS, body=BODIES)
def test_a_request_comes_back_as_it_was_recorded(
    method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    if body:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    own = headers[:1] or None
    request = RecordedRequest(method=method, target=target, headers=headers, body=body, timeout_s=2.5, forwarding=own)
    assert decode_request(encode_request(request)) == request


@given(
    status=st.integers(200, 599),
    reason=st.from_regex(r"[\t\x20-\x7e\x80-\xff]*", fullmatch=True),
    headers=HEADERS,
    body=BODIES,
)
def test_a_response_comes_back_as_it_was_recorded(
    status: int, reason: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    response = RecordedResponse(status=status, reason=reason, headers=headers, body=body)
    assert decode_response(encode_response(response)) == response


def test_a_stored_reason_that_no_status_line_can_hold_is_refused() -> None:
    for reason in ("a\r\nb", "\u0107"):
        stored = msgspec.json.encode({"status": 200, "reason": reason, "headers": []})
        with pytest.raises(ValueError, match="reason"):
            decode_response(stored)


def test_a_text_is_stored_as_text_and_bytes_as_base64() -> None:
    text = msgspec.json.decode(
        encode_request(RecordedRequest(method="POST", target="/", headers=[], body="grüß".encode()))
    )
    assert text == {"method": "POST", "target": "/", "headers": [], "body": "grüß"}
    raw = msgspec.json.decode(encode_request(RecordedRequest(method="POST", target="/", headers=[], body=b"\xff\x00")))
    assert raw["bodyBase64"] == "/wA="
    assert "body" not in raw


def test_an_offloaded_body_keeps_its_reference() -> None:
    response = RecordedResponse(status=200, reason="OK", headers=[], blob=reference("responses", "1", "response", b"x"))
    assert decode_response(encode_response(response)) == response


@pytest.mark.parametrize("stored", [b"", b"{}", b"[1]", b'{"method":1,"target":"/","headers":[]}'])
def test_a_stored_record_that_is_no_request_is_refused(stored: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_request(stored)


def stored(**changed: object) -> bytes:
    """A request as any program may have written it."""
    return msgspec.json.encode({"method": "POST", "target": "/x", "headers": [["a", "1"]], "body": "hi"} | changed)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        *(({"method": method}, "method") for method in ("", "GET /", "G\r\nX: y", "GÉT", "GET\x00", "connect")),
        *(
            ({"target": target}, "target")
            for target in (
                "", "x", "http://other/", "//x y", "/a b", "/a\r\nx: y", "/a\tb", "/\x00", "/\x7f", "/\u0100", "*",
                "/../admin", "/..;/admin", "/%2e%2e/admin", "/a/..%2f..%5cb",
            )
        ),
        *(({"headers": [[name, "1"]]}, "name of a header") for name in ("", "a b", "a:", "a\r\nb", "é", "\u0100")),
        *(
            ({"headers": [["cookie", value]]}, "cookie")
            for value in ("a\r\nx: y", "a\nb", "a\rb", "\x00", "\x01", "\x7f", "\u0100")
        ),
        ({"headers": [["content-length", "7"]]}, "content-length"),
        ({"headers": [["Content-Length", "2"], ["content-length", "2"]]}, "content-length"),
        ({"headers": [["content-length", "+2"]]}, "content-length"),
        ({"headers": [["content-length", "1"]], "body": ""}, "content-length"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1.5}, "timeout"),
        ({"headers": [["a"]]}, "length"),
        ({"bodyBase64": "!"}, "base64"),
        ({"more": msgspec.Raw(b"[" * 50_000 + b"]" * 50_000)}, "nested"),
    ],
)  # fmt: skip
def test_a_request_that_could_not_have_come_in_is_refused_with_the_reason(
    changed: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=f"(?i){said}"):
        decode_request(stored(**changed))


def test_hop_by_hop_headers_are_left_out_of_stored_and_incoming_requests() -> None:
    headers = [
        ["Host", "other"], ["Transfer-Encoding", "chunked"], ["connection", "close, x-hop"], ["X-Hop", "1"],
        ["te", "t"], ["Proxy-Authorization", "x"], ["a", "1"],
    ]  # fmt: skip
    assert decode_request(stored(headers=headers)).headers == [(b"a", b"1"), (b"content-length", b"2")]
    assert decode_request(stored(headers=headers, body="")).headers == [(b"a", b"1")]


@pytest.mark.parametrize(
    "changed",
    [
        {"status": 99}, {"status": 101}, {"status": 600}, {"reason": "OK\r\nx: y"}, {"reason": "\x00"},
        {"headers": [["a\r\nb", "1"]]}, {"headers": [["a", "1\r\nset-cookie: x"]]}, {"headers": [["a", "\x00"]]},
        {"headers": [["a", "\u0100"]]}, {"headers": [["", "1"]]}, {"headers": {}}, {"headers": None},
        *(
            {"blob": {"name": name, "size_bytes": 1}}
            for name in ("x", "../../etc/passwd", "/etc/passwd", "a/../b", "responses/1/", "responses/./x", "a/b/c/d")
        ),
        {"blob": {"name": "responses/1/response-x", "size_bytes": -1}},
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_sent_is_refused(changed: dict[str, object]) -> None:
    sound = {"status": 200, "reason": "OK", "headers": [["a", "1"]], "body": "hi"}
    assert decode_response(msgspec.json.encode(sound)).body == b"hi"
    with pytest.raises(ValueError, match=r"."):
        decode_response(msgspec.json.encode(sound | changed))
