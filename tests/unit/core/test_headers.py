import pytest

from toril.core.headers import FRAMING, is_header_name, is_header_value, request_head


@pytest.mark.parametrize("name", [b"X-Custom", b"x", b"!#$%&'*+-.^_`|~09azAZ"])
def test_a_token_is_a_header_name(name: bytes) -> None:
    assert is_header_name(name)


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\n", b"a\n", b"\xe9", b"a(b)", b"a\x00", b'"a"', b"a/b"])
def test_anything_else_is_no_header_name(name: bytes) -> None:
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
