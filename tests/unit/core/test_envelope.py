"""Recorded requests and responses come back byte for byte, and are JSON that a person can read."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.blob import reference
from toril.core.envelope import (
    RecordedRequest,
    RecordedResponse,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)

HEADERS = st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=60)), max_size=8)
BODIES = st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode))


@given(method=st.text(min_size=1, max_size=10), target=st.text(max_size=40), headers=HEADERS, body=BODIES)
def test_a_request_comes_back_as_it_was_recorded(
    method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    request = RecordedRequest(method=method, target=target, headers=headers, body=body, timeout_s=2.5)
    assert decode_request(encode_request(request)) == request


@given(status=st.integers(100, 599), reason=st.text(max_size=20), headers=HEADERS, body=BODIES)
def test_a_response_comes_back_as_it_was_recorded(
    status: int, reason: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    response = RecordedResponse(status=status, reason=reason, headers=headers, body=body)
    assert decode_response(encode_response(response)) == response


def test_a_text_is_stored_as_text_and_bytes_as_base64() -> None:
    text = msgspec.json.decode(
        encode_request(RecordedRequest(method="POST", target="/", headers=[], body="grüß".encode()))
    )
    assert text == {"method": "POST", "target": "/", "headers": [], "body": "grüß"}
    raw = msgspec.json.decode(encode_request(RecordedRequest(method="POST", target="/", headers=[], body=b"\xff\x00")))
    assert raw["bodyBase64"] == "/wA="
    assert "body" not in raw


def test_a_body_that_is_elsewhere_keeps_its_reference() -> None:
    response = RecordedResponse(status=200, reason="OK", headers=[], blob=reference("responses", "1", "response", b"x"))
    assert decode_response(encode_response(response)) == response


@pytest.mark.parametrize("stored", [b"", b"{}", b"[1]", b'{"method":1,"target":"/","headers":[]}'])
def test_what_is_no_request_is_refused(stored: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_request(stored)
