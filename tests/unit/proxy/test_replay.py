"""Which headers a replayed answer goes out with."""

import pytest

from toril.proxy.proxied_requests import preferred_wait_s
from toril.proxy.replay import sent_headers
from toril.proxy.rules.envelope import RecordedResponse


def headers_of(
    status: int, headers: list[tuple[bytes, bytes]], size: int, *, is_head: bool = False
) -> list[tuple[bytes, bytes]]:
    return sent_headers(RecordedResponse(status=status, reason="", headers=headers), size, is_head=is_head)


def test_a_true_length_stays_where_it_is() -> None:
    headers = [(b"A", b"1"), (b"Content-Length", b"3"), (b"B", b"2")]
    assert headers_of(200, headers, 3) == headers


def test_a_wrong_or_missing_length_is_replaced() -> None:
    assert headers_of(200, [(b"Content-Length", b"9"), (b"A", b"1")], 3) == [(b"A", b"1"), (b"content-length", b"3")]
    assert headers_of(200, [(b"Transfer-Encoding", b"chunked"), (b"A", b"1")], 3) == [
        (b"A", b"1"),
        (b"content-length", b"3"),
    ]


def test_the_answer_to_head_says_how_long_the_body_would_be() -> None:
    assert headers_of(200, [(b"Content-Length", b"9")], 0, is_head=True) == [(b"Content-Length", b"9")]
    assert headers_of(200, [(b"Content-Length", b"9")], 0) == [(b"content-length", b"0")]
    assert headers_of(200, [(b"A", b"1")], 3, is_head=True) == [(b"A", b"1"), (b"content-length", b"3")]


def test_the_answer_to_head_without_a_length_gets_none() -> None:
    assert headers_of(200, [(b"A", b"1")], 0, is_head=True) == [(b"A", b"1")]
    assert headers_of(200, [(b"Transfer-Encoding", b"chunked")], 0, is_head=True) == []
    assert headers_of(200, [(b"A", b"1")], 0) == [(b"A", b"1"), (b"content-length", b"0")]


def test_no_length_is_added_to_an_answer_that_cannot_have_content() -> None:
    assert headers_of(204, [(b"Content-Length", b"0"), (b"A", b"1")], 0) == [(b"A", b"1")]
    assert headers_of(304, [(b"Content-Length", b"9")], 0) == [(b"Content-Length", b"9")]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"wait=10", 10),
        (b"respond-async, wait=10", 10),
        (b"respond-async; wait = 5", 5),
        (b"WAIT=3", 3),
        (b"wait=99999", 300),
        (b"wait", 0),
        (b"wait=soon", 0),
        (b"await=3", 0),
        (b"return=minimal", 0),
    ],
)
def test_prefer_wait_is_read_from_the_headers(value: bytes, seconds: float) -> None:
    assert preferred_wait_s([(b"prefer", value)]) == seconds
