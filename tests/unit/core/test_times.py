import math
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.times import duration_text, moment_text, parse_duration_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("30s", 30),
        ("1h30m", 5400),
        ("2m3.5s", 123.5),
        ("500ms", 0.5),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("5.s", 5),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("10ns", 1e-8),
        ("0s", 0),
        ("1s1s", 2),
    ],
)
def test_a_duration_is_read_as_go_reads_it(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "-5s", "1h-1m", "5d", "5S", "1m 3s", "5s ", " 5s", "1..5s", ".s"]
)
def test_an_invalid_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration") as caught:
        parse_duration_s(text)
    assert repr(text) in str(caught.value)


@given(st.text())
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        seconds = parse_duration_s(text)
    except ValueError:
        return
    assert seconds >= 0


@given(st.integers(0, 1000), st.integers(0, 59), st.integers(0, 59))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration_s(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.5, "500ms"), (0.00025, "0.25ms"), (1, "1s"), (1.5, "1.5s"), (60, "1m"), (90, "1m30s"),
        (5400, "1h30m"), (3600, "1h"), (2592000, "720h"), (3601.25, "1h1.25s"), (10, "10s"), (100, "1m40s"),
    ],
)  # fmt: skip
def test_seconds_are_written_as_a_duration(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@given(st.integers(0, 10**13))
def test_a_written_duration_reads_back(microseconds: int) -> None:
    assert parse_duration_s(duration_text(microseconds / 1e6)) == pytest.approx(microseconds / 1e6, abs=1e-6)


@pytest.mark.parametrize(
    ("at_s", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1798761600.9999, "2027-01-01T00:00:00.999Z"),
        (253402300799.9999, "9999-12-31T23:59:59.999Z"),
        (253402351199.0, "9999-12-31T23:59:59.999Z"),
        (math.inf, "9999-12-31T23:59:59.999Z"),
        (-62135647200.0, "0001-01-01T00:00:00.000Z"),
        (-1e300, "0001-01-01T00:00:00.000Z"),
    ],
)
def test_a_time_beyond_the_calendar_is_shown_as_its_last_moment(at_s: float, text: str) -> None:
    assert moment_text(at_s) == text


@given(st.floats() | st.integers())
def test_every_number_can_be_shown(at_s: float) -> None:
    assert datetime.fromisoformat(moment_text(at_s, "seconds")).utcoffset() is not None
