"""What the reader of answers makes of bytes, however they are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.http.streaming import StreamHead
from toril.http_client.answer_reader import AnswerLimits, AnswerReader

STREAMED = AnswerLimits(streamed=True)
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nx-late: 1\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"


def read(*pieces: bytes, limits: AnswerLimits = STREAMED, head_only: bool = False) -> AnswerReader:
    reader = AnswerReader()
    reader.begin(limits, head_only)
    for piece in pieces:
        reader.feed(piece)
    return reader


def code_of(reader: AnswerReader) -> str:
    return "" if reader.failure is None else reader.failure.code


@given(answer=st.sampled_from([PLAIN, CHUNKED, EARLY + PLAIN, EARLY * 2 + CHUNKED]), data=st.data())
def test_an_answer_is_the_same_however_its_bytes_are_cut(answer: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=8)))
    pieces = [answer[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    whole, cut = read(answer), read(*pieces)
    assert (cut.ended, cut.reusable, cut.failure) == (True, True, None)
    assert (cut.heads, cut.take()) == (whole.heads, b"hello")


def test_informational_heads_come_first_and_keep_their_headers() -> None:
    reader = read(EARLY + PLAIN)
    early = StreamHead(103, [(b"link", b"a")], b"Early Hints")
    assert reader.heads == [early, StreamHead(200, [(b"Content-Length", b"5")], b"OK")]
    assert (reader.status, reader.reason) == (200, b"OK")


def test_answers_that_are_collected_keep_no_heads() -> None:
    reader = read(EARLY * 3 + PLAIN, limits=AnswerLimits())
    assert (reader.heads, reader.status, reader.headers) == ([], 200, [(b"Content-Length", b"5")])


def test_a_second_answer_can_follow_on_the_same_reader() -> None:
    reader = read(PLAIN)
    assert reader.take() == b"hello"
    reader.begin(AnswerLimits(), False)
    assert (reader.began, reader.ended, reader.status) == (False, False, 0)
    reader.feed(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
    assert (reader.ended, reader.status, reader.take()) == (True, 404, b"no")


def test_an_answer_follows_one_to_a_head_request() -> None:
    reader = read(PLAIN[:-5], head_only=True)
    assert (reader.ended, reader.reusable) == (True, True)
    reader.begin(STREAMED, False)
    reader.feed(PLAIN)
    assert (reader.ended, reader.take()) == (True, b"hello")


@pytest.mark.parametrize("behind", [PLAIN, b"HTTP/1.1 2", b"\x00", b"hello"])
@pytest.mark.parametrize("head_only", [True, False])
def test_bytes_after_an_answer_make_the_connection_unusable(behind: bytes, head_only: bool) -> None:
    answer = PLAIN[:-5] if head_only else PLAIN
    reader = read(answer + behind, head_only=head_only)
    assert (reader.ended, reader.reusable, reader.failure) == (True, False, None)
    assert reader.take() == (b"" if head_only else b"hello")


@pytest.mark.parametrize(
    ("answer", "clean", "ended", "code"),
    [
        (b"", True, False, ""),
        (b"HTTP/1.1 200 OK\r\n\r\nhel", True, True, ""),
        (b"HTTP/1.1 200 OK\r\n\r\nhel", False, False, "ECONNRESET"),
        (PLAIN[:-1], True, False, "ECONNRESET"),
        (CHUNKED[:-1], True, False, "ECONNRESET"),
        (EARLY, True, False, "ECONNRESET"),
        (PLAIN[:20], True, False, "ECONNRESET"),
        (PLAIN, False, True, ""),
    ],
)
def test_the_end_of_the_connection_ends_only_a_body_that_nothing_else_ends(
    answer: bytes, clean: bool, ended: bool, code: str
) -> None:
    reader = read(*[answer] if answer else [])
    reader.end_of_input(clean=clean)
    assert (reader.ended, reader.reusable, code_of(reader)) == (ended, False, code)


def test_a_switch_of_protocols_is_refused_where_the_answer_is_collected() -> None:
    switch = b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nraw"
    assert code_of(read(switch, limits=AnswerLimits())) == "ERR_HTTP"
    streamed = read(switch, b" bytes")
    assert (streamed.raw, streamed.failure, streamed.take()) == (True, None, b"raw bytes")
    assert [head.status for head in streamed.heads] == [101]


def test_a_longer_body_is_cut_off_or_ends_at_its_limit() -> None:
    assert code_of(read(PLAIN, limits=AnswerLimits(max_body_bytes=4))) == "ERR_BODY_TOO_LARGE"
    cut = read(PLAIN, limits=AnswerLimits(max_body_bytes=4, truncates=True))
    assert (cut.ended, cut.truncated, cut.reusable, cut.take()) == (True, True, False, b"hell")
    just = read(PLAIN, limits=AnswerLimits(max_body_bytes=5, truncates=True))
    assert (just.ended, just.truncated, just.reusable) == (True, False, True)
