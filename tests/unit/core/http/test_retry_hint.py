from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.http.retry_hint import NO_HINT, RetryHint, read_hint
from toril.core.outcome import Answered

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110's examples
HOUR_MS = 3_600_000


def hint(most_ms: int | None = HOUR_MS, **headers: bytes) -> RetryHint:
    named = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return read_hint(Answered(503, "Busy", named, b"", 0.1), NOW, most_ms)


def test_an_answer_without_hints_changes_nothing() -> None:
    assert hint() == NO_HINT


@pytest.mark.parametrize(
    ("value", "least_ms"),
    [
        (b"0", 0),
        (b"120", 120_000),
        (b" 5 ", 5_000),
        (b"3600", HOUR_MS),
        (b"3601", HOUR_MS),
        (b"9" * 400, HOUR_MS),
        (b"Sun, 06 Nov 1994 08:50:37 GMT", 60_000),
        (b"Sunday, 06-Nov-94 08:50:37 GMT", 60_000),
        (b"Sun Nov  6 08:50:37 1994", 60_000),
        (b"Sun, 06 Nov 1994 09:50:37 +0100", 60_000),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 0),
        (b"Sat, 05 Nov 1994 08:49:37 GMT", 0),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", HOUR_MS),
    ],
)
def test_retry_after_is_a_floor_up_to_the_limit(value: bytes, least_ms: int) -> None:
    assert hint(Retry_After=value) == RetryHint(least_ms=least_ms)


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", b"soon", b"+1", b"0x10", b"\xff", b"Sun, 99 Nov 1994", b"1e3"])
def test_an_invalid_retry_after_is_ignored_and_reported(value: bytes) -> None:
    read = hint(retry_after=value)
    assert (read.instead_ms, read.least_ms) == (None, 0)
    shown = repr(value.decode("latin-1"))
    assert read.notes == (f"retry-after was ignored, {shown} is neither seconds nor a date",)


def test_retry_after_is_left_alone_where_the_policy_does_not_ask_for_it() -> None:
    assert hint(None, retry_after=b"120") == hint(None, retry_after=b"soon") == NO_HINT


@pytest.mark.parametrize(("value", "instead_ms"), [(b"0", 0), (b"1500", 1500), (b" 7 ", 7), (b"86400000", 86_400_000)])
@pytest.mark.parametrize("most_ms", [None, HOUR_MS])
def test_toril_retry_in_replaces_whatever_else_there_is(value: bytes, instead_ms: int, most_ms: int | None) -> None:
    assert hint(most_ms, toril_retry_in=value, retry_after=b"120") == RetryHint(instead_ms=instead_ms)


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", b"1s", b"soon", b"\xb2", b"9007199254740992", b"9" * 100])
def test_an_invalid_toril_retry_in_is_ignored_and_reported(value: bytes) -> None:
    read = hint(toril_retry_in=value, retry_after=b"2")
    assert (read.instead_ms, read.least_ms) == (None, 2000)
    shown = repr(value[:40].decode("latin-1"))
    assert read.notes == (f"toril-retry-in was ignored, {shown} is no number of milliseconds",)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_headers_can_be_read_as_a_retry_hint(retry_in: bytes, retry_after: bytes) -> None:
    read = hint(toril_retry_in=retry_in, retry_after=retry_after)
    assert 0 <= read.least_ms <= HOUR_MS


@given(st.integers(0, HOUR_MS // 1000))
def test_retry_after_may_be_a_date(seconds: int) -> None:
    date = formatdate(NOW + seconds, usegmt=True).encode()
    assert hint(retry_after=date) == hint(retry_after=b"%d" % seconds)
