import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.http.headers import (
    FRAMING,
    end_to_end,
    forwarded,
    is_header_name,
    is_header_value,
    is_websocket_upgrade,
    request_head,
    with_forwarding,
)


@pytest.mark.parametrize("name", [b"X-Custom", b"x", b"!#$%&'*+-.^_`|~09azAZ"])
def test_a_token_is_a_header_name(name: bytes) -> None:
    assert is_header_name(name)


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\n", b"a\n", b"\xe9", b"a(b)", b"a\x00", b'"a"', b"a/b"])
def test_a_name_that_is_no_token_is_no_header_name(name: bytes) -> None:
    assert not is_header_name(name)


@pytest.mark.parametrize("value", [b"", b"a", b"a b\tc", b"\xe9\xff", b"~", b" a "])
def test_visible_bytes_are_a_header_value(value: bytes) -> None:
    assert is_header_value(value)


@pytest.mark.parametrize("value", [b"a\r\nb", b"a\n", b"\r", b"\x00", b"a\x7f", b"\x1b"])
def test_control_characters_are_in_no_header_value(value: bytes) -> None:
    assert not is_header_value(value)


def test_a_head_is_the_request_line_host_and_headers_in_order() -> None:
    head = request_head(b"PUT", b"/a?b=c", b"example.org:8080", [(b"X-One", b"1"), (b"x-two", b""), (b"X-One", b"3")])
    assert head == b"PUT /a?b=c HTTP/1.1\r\nhost: example.org:8080\r\nX-One: 1\r\nx-two: \r\nX-One: 3\r\n"


def test_a_given_host_wins() -> None:
    assert request_head(b"POST", b"/", b"a", [(b"HOST", b"b")]) == b"POST / HTTP/1.1\r\nHOST: b\r\n"


@pytest.mark.parametrize("name", sorted(FRAMING))
def test_framing_is_left_to_the_client(name: bytes) -> None:
    given = [(name.title(), b"1"), (b"x", b"y")]
    assert request_head(b"POST", b"/", b"a", given) == b"POST / HTTP/1.1\r\nhost: a\r\nx: y\r\n"


def test_hop_by_hop_headers_end_at_a_proxy_also_those_that_connection_names() -> None:
    headers = [
        (b"host", b"a"),
        (b"X-A", b"1"),
        (b"Connection", b"close, X-Mine"),
        (b"x-mine", b"2"),
        (b"x-a", b"3"),
        (b"TE", b"trailers"),
        (b"upgrade", b"h2c"),
        (b"content-length", b"0"),
    ]
    assert end_to_end(headers) == [(b"host", b"a"), (b"X-A", b"1"), (b"x-a", b"3"), (b"content-length", b"0")]


def test_connection_cannot_take_away_what_frames_and_routes_a_request() -> None:
    headers = [(b"connection", b"content-length, host"), (b"content-length", b"3"), (b"host", b"a")]
    assert end_to_end(headers) == headers[1:]


@pytest.mark.parametrize(
    ("connection", "upgrade", "is_one"),
    [
        (b"Upgrade", b"websocket", True),
        (b"keep-alive, UPGRADE", b"WebSocket", True),
        (b"keep-alive", b"websocket", False),
        (b"upgrade", b"h2c", False),
        (b"upgrade", b"h2c, websocket", True),
    ],
)
def test_a_websocket_upgrade_is_told_by_both_headers(connection: bytes, upgrade: bytes, is_one: bool) -> None:
    assert is_websocket_upgrade([(b"connection", connection), (b"upgrade", upgrade)]) is is_one


@pytest.mark.parametrize(
    ("sent", "address"),
    [
        ([], b"10.0.0.9"),
        ([(b"x-real-ip", b"1.1.1.1")], b"1.1.1.1"),
        ([(b"x-real-ip", b"1.1.1.1"), (b"x-forwarded-for", b"2.2.2.2, 3.3.3.3")], b"2.2.2.2"),
        ([(b"x-forwarded-for", b"2.2.2.2"), (b"x-forwarded-for", b"4.4.4.4")], b"2.2.2.2"),
    ],
)
def test_the_upstream_is_told_one_address_of_the_client(sent: list[tuple[bytes, bytes]], address: bytes) -> None:
    told = with_forwarding([(b"host", b"me"), *sent, (b"x-a", b"1")], b"10.0.0.9", b"http")
    assert told == [
        (b"host", b"me"),
        (b"x-a", b"1"),
        (b"x-forwarded-for", address),
        (b"x-real-ip", address),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"me"),
    ]


def test_forwarding_headers_of_an_earlier_proxy_are_kept() -> None:
    sent = [(b"host", b"me"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"shop.example")]
    told = with_forwarding(sent, b"10.0.0.9", b"http")
    assert (b"x-forwarded-proto", b"https") in told
    assert (b"x-forwarded-host", b"shop.example") in told


NAMES = (
    b"host",
    b"connection",
    b"te",
    b"x-a",
    b"x-b",
    b"x-forwarded-for",
    b"x-real-ip",
    b"x-forwarded-proto",
    b"content-length",
)
VALUES = (b"keep-alive", b"close, x-a", b"Close", b"1", b"2.2.2.2, 3", b"")


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=8))
def test_the_fast_path_forwards_the_same_headers_as_the_slow_path(headers: list[tuple[bytes, bytes]]) -> None:
    long_way = with_forwarding(end_to_end(headers), b"9.9.9.9", b"https")
    assert forwarded(headers, b"9.9.9.9", b"https") == [pair for pair in long_way if pair[0] != b"host"]
