"""Where pieces of requests end, however reads split them."""

from hypothesis import given
from hypothesis import strategies as st

from toril.server.request_pieces import RequestPieces


def cut(*reads: bytes, body_bytes: int = 0) -> list[bytes]:
    """The pieces of these reads, those that one read begins and another one ends put together."""
    pieces, whole = RequestPieces(), [b""]
    pieces.body_left = body_bytes
    for data in reads:
        at = 0
        while at < len(data):
            end = pieces.end(data, at)
            whole[-1] += data[at:end]
            if pieces.body_left:
                pieces.body_left -= end - at
                ended = not pieces.body_left
            else:
                ended = whole[-1].endswith(b"\r\n\r\n")
            if ended:
                whole.append(b"")
            at = end
    return whole


@given(st.lists(st.text("ab\r\n", max_size=12).map(str.encode), max_size=8))
def test_a_piece_ends_at_the_first_empty_line_however_it_is_split(reads: list[bytes]) -> None:
    *lines, last = b"".join(reads).split(b"\r\n\r\n")
    assert cut(*reads) == [*[line + b"\r\n\r\n" for line in lines], last]


@given(st.binary(max_size=40), st.integers(1, 50), st.integers(0, 40))
def test_a_body_of_known_length_is_one_piece_whatever_is_in_it(data: bytes, body_bytes: int, at: int) -> None:
    found = cut(data[:at], data[at:], body_bytes=body_bytes)
    assert found[0] == data[:body_bytes]


def test_bytes_after_a_body_are_another_piece() -> None:
    found = cut(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", body_bytes=4)
    assert found == [b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b""]
