import gzip
import tracemalloc
import zlib
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.outcome import Answered
from toril.http_client.compressed_answers import unpacked

TEXT = b'{"charged": true}' * 20
MOST = 10_000


def raw_deflate(body: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packing.compress(body) + packing.flush()


def answer(body: bytes, *codings: bytes, name: bytes = b"Content-Encoding") -> Answered:
    return Answered(200, "OK", [(b"x", b"1"), *((name, coding) for coding in codings)], body, 0.1)


# Without the time of day: test processes side by side have to give the same names to the same tests.
packed = partial(gzip.compress, mtime=0)


@pytest.mark.parametrize(
    ("body", "codings"),
    [
        (packed(TEXT), (b"gzip",)),
        (packed(TEXT), (b"X-GZIP",)),
        (packed(TEXT[:50]) + packed(TEXT[50:]), (b"gzip",)),
        (packed(TEXT) + b"\0" * 7, (b"gzip",)),
        (zlib.compress(TEXT), (b"deflate",)),
        (raw_deflate(TEXT), (b"deflate",)),
        (packed(zlib.compress(TEXT)), (b"deflate, gzip",)),
        (packed(zlib.compress(TEXT)), (b"deflate", b" gzip ")),
        (packed(TEXT), (b"identity", b"gzip")),
        (TEXT, (b"identity",)),
        (TEXT, (b"",)),
        (TEXT, ()),
        (b"", (b"gzip",)),
    ],
)
def test_a_body_is_as_it_was_before_compression(body: bytes, codings: tuple[bytes, ...]) -> None:
    found = unpacked(answer(body, *codings), MOST)
    assert (found.body, found.unreadable) == (TEXT if body else b"", "")


@pytest.mark.parametrize(
    ("body", "codings", "why"),
    [
        (b"\x1b", (b"br",), "ERR_ENCODING: The answer is compressed with br, which toril does not read"),
        (
            packed(TEXT),
            (b"zstd, gzip",),
            "ERR_ENCODING: The answer is compressed with zstd, which toril does not",
        ),
        (TEXT, (b"gzip",), "ERR_ENCODING: The answer says that it is gzip, and is not"),
        (b"\xff" * 20, (b"deflate",), "ERR_ENCODING: The answer says that it is deflate, and is not"),
        (packed(TEXT)[:-1], (b"gzip",), "ERR_ENCODING: The answer's compressed body ends too early"),
        (zlib.compress(TEXT)[:5], (b"deflate",), "ERR_ENCODING: The answer's compressed body ends too early"),
        (
            packed(b"x" * (MOST + 1)),
            (b"gzip",),
            "ERR_BODY_TOO_LARGE: The answer's body is larger than 10000 bytes",
        ),
        (TEXT, (b"gzip",) * 5, "ERR_ENCODING: The answer is compressed more than 4 times"),
        (packed(b"") * 101, (b"gzip",), "ERR_ENCODING: The answer has more than 100 gzip members"),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_left_out_with_the_reason(
    body: bytes, codings: tuple[bytes, ...], why: str
) -> None:
    found = unpacked(answer(body, *codings), MOST)
    assert found.body == b""
    assert found.unreadable.startswith(why)


def test_a_body_of_exactly_the_limit_is_unpacked() -> None:
    assert len(unpacked(answer(packed(b"x" * MOST), b"gzip"), MOST).body) == MOST


def test_a_small_body_that_would_become_huge_takes_no_memory() -> None:
    bomb = packed(packed(b"\0" * 50_000_000))
    tracemalloc.start()
    try:
        found = unpacked(answer(bomb, b"gzip, gzip"), 100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.unreadable.startswith("ERR_BODY_TOO_LARGE")
    assert peak < 1_000_000


@given(st.binary(max_size=60), st.sampled_from([b"gzip", b"deflate", b"deflate,gzip"]))
def test_any_body_is_unpacked_or_says_why(body: bytes, codings: bytes) -> None:
    for given_body in (body, packed(body), raw_deflate(body)):
        found = unpacked(answer(given_body, codings), 30)
        assert len(found.body) <= 30
