"""Which header lines are kept, so that a request that has the same ones is not parsed."""

import pytest

from toril.core.http.headers import Header
from toril.server.known_heads import KnownHeads


def _lines(*headers: Header) -> bytes:
    return b"".join(b"\r\n%b: %b" % header for header in headers)


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([(b"host", b"x")], 0),
        ([(b"host", b"x"), (b"content-length", b"12"), (b"connection", b"Keep-Alive")], 12),
        ([(b"host", b"x"), (b"content-length", b"65536")], 65_536),
        ([(b"host", b"x"), (b"te", b"trailers"), (b"accept", b"")], 0),
    ],
)
def test_lines_that_say_all_are_kept(headers: list[Header], length: int) -> None:
    known = KnownHeads()
    known.keep(_lines(*headers), headers)
    assert known.find(_lines(*headers)) == (headers, length)
    assert known.find(_lines(*headers, (b"a", b"b"))) is None


@pytest.mark.parametrize(
    "header",
    [
        (b"transfer-encoding", b"chunked"),
        (b"expect", b"100-continue"),
        (b"upgrade", b"websocket"),
        (b"connection", b"close"),
        (b"connection", b"keep-alive, upgrade"),
        (b"proxy-connection", b"close"),
        (b"content-length", b"65537"),
        (b"long", b"x" * 1024),
    ],
)
def test_lines_that_leave_more_to_know_are_not_kept(header: Header) -> None:
    known = KnownHeads()
    headers = [(b"host", b"x"), header]
    known.keep(_lines(*headers), headers)
    assert known.find(_lines(*headers)) is None


@pytest.mark.parametrize(
    "lines",
    [
        b"\r\nhost: x\na: b",
        b"\r\nhost: x\r\na: b\rc",
        b"\r\nhost: x\r\n a: b",  # folded: one header in two lines
        b"\r\nhost: x\r\na: b\r\nc: d",
    ],
)
def test_lines_that_do_not_hold_a_header_each_are_not_kept(lines: bytes) -> None:
    known = KnownHeads()
    known.keep(lines, [(b"host", b"x")] if b" a" in lines else [(b"host", b"x"), (b"a", b"b")])
    assert known.find(lines) is None


def test_what_an_application_does_to_its_headers_is_not_kept() -> None:
    known = KnownHeads()
    headers = [(b"host", b"x")]
    known.keep(_lines(*headers), headers)
    headers.append((b"authorization", b"Bearer of another"))
    found = known.find(_lines((b"host", b"x")))
    assert found is not None
    assert found.headers == [(b"host", b"x")]


def test_there_are_few_of_them() -> None:
    known = KnownHeads()
    for number in range(10_000):
        headers = [(b"host", b"%d" % number)]
        known.keep(_lines(*headers), headers)
    kept = sum(known.find(_lines((b"host", b"%d" % number))) is not None for number in range(10_000))
    assert 1 <= kept <= 256
    assert known.find(_lines((b"host", b"9999"))) is not None
