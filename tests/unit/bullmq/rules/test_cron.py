from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.bullmq.rules.cron import next_due
from toril.bullmq.rules.cron_pattern import read_pattern
from toril.bullmq.rules.zones import Zone, utc
from toril.bullmq.time_zones import read_zone


def ms(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def due(pattern: str, zone: str, after: str, times: int = 1) -> list[str]:
    """When a pattern is due, one time after another, as local times."""
    found, after_ms = [], ms(after)
    for _ in range(times):
        next_ms = next_due(read_pattern(pattern, "seed"), read_zone(zone), after_ms)
        assert next_ms is not None
        after_ms = next_ms
        utc_s = next_ms // 1000
        offset = timedelta(seconds=read_zone(zone).offset(utc_s))
        found.append((datetime.fromtimestamp(utc_s, UTC) + offset).strftime("%Y-%m-%d %H:%M:%S"))
    return found


@pytest.mark.parametrize(
    ("pattern", "zone", "after", "wanted"),
    [
        ("0 6 * * MON", "America/New_York", "2026-10-27T00:00Z", ["2026-11-02 06:00:00", "2026-11-09 06:00:00"]),
        ("0 6 * * *", "Europe/Berlin", "2027-03-27T12:00Z", ["2027-03-28 06:00:00", "2027-03-29 06:00:00"]),
        ("0 6 * * *", "Europe/Berlin", "2027-10-30T12:00Z", ["2027-10-31 06:00:00", "2027-11-01 06:00:00"]),
        # A skipped hour counts where the clocks land, once, and only for times that were to come.
        ("30 2 * * *", "Europe/Berlin", "2027-03-27T12:00Z", ["2027-03-28 03:30:00", "2027-03-29 02:30:00"]),
        ("30 2,3 * * *", "Europe/Berlin", "2027-03-28T00:00Z", ["2027-03-28 03:30:00", "2027-03-29 02:30:00"]),
        ("30 2 * * *", "Europe/Berlin", "2027-03-28T01:00Z", ["2027-03-29 02:30:00"]),
        # An hour that comes twice counts once.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", ["2026-10-25 02:30:00", "2026-10-26 02:30:00"]),
        # The clocks go forward at midnight, and back at midnight.
        ("0 9 * * *", "America/Santiago", "2026-09-05T20:00Z", ["2026-09-06 09:00:00", "2026-09-07 09:00:00"]),
        ("0 0 * * *", "America/Havana", "2026-10-31T12:00Z", ["2026-11-01 00:00:00", "2026-11-02 00:00:00"]),
        # By half an hour.
        ("30 5 * * *", "Australia/Lord_Howe", "2027-04-03T12:00Z", ["2027-04-04 05:30:00", "2027-04-05 05:30:00"]),
        ("0 0 29 2 *", "UTC", "2096-03-01T00:00Z", ["2104-02-29 00:00:00"]),
        ("0 0 L * *", "UTC", "2027-01-31T00:00Z", ["2027-02-28 00:00:00", "2027-03-31 00:00:00"]),
        ("0 0 * * 5L", "UTC", "2026-11-01T00:00Z", ["2026-11-27 00:00:00", "2026-12-25 00:00:00"]),
        ("0 0 * * TUE#2", "UTC", "2026-11-01T00:00Z", ["2026-11-10 00:00:00", "2026-12-08 00:00:00"]),
        ("0 0 13 * FRI", "UTC", "2026-11-01T00:00Z", ["2026-11-06 00:00:00", "2026-11-13 00:00:00"]),
        ("0 0 * 2 1#5", "UTC", "2026-11-01T00:00Z", ["2044-02-29 00:00:00"]),
        ("0 12 * * *", "UTC+3", "2026-11-01T12:00Z", ["2026-11-02 12:00:00"]),
    ],
)
def test_a_pattern_is_due_when_it_says(pattern: str, zone: str, after: str, wanted: list[str]) -> None:
    assert due(pattern, zone, after, len(wanted)) == wanted


@pytest.mark.parametrize(("pattern", "every_s"), [("*/15 * * * *", 900), ("0 * * * *", 3600), ("*/30 * * * * *", 30)])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Europe/London", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("day", ["2026-10-24T22:00Z", "2026-11-01T03:00Z", "2027-03-27T22:00Z", "2027-04-03T12:00Z"])
def test_no_clock_change_interrupts_what_is_due_in_every_hour(pattern: str, every_s: int, zone: str, day: str) -> None:
    if zone == "Australia/Lord_Howe" and every_s == 3600:
        every_s = 1800  # its clocks change by half an hour, so full hours follow after half an hour or one and a half
    after_ms = ms(day)
    for _ in range(6 * 3600 // every_s):
        found = next_due(read_pattern(pattern, "seed"), read_zone(zone), after_ms)
        assert found is not None
        gap_s = (found - after_ms) / 1000
        assert 0 < gap_s <= max(every_s, 5400 if zone == "Australia/Lord_Howe" else 0)
        after_ms = found


def test_between_two_seconds_the_next_full_one_counts() -> None:
    after_ms = ms("2026-11-01T11:59:59Z") + 1
    assert next_due(read_pattern("0 12 * * *", ""), utc(), after_ms) == ms("2026-11-01T12:00:00Z")


def test_years_beyond_the_calendar_of_python_are_found() -> None:
    # 10426 begins on the same weekday as 2026: the calendar repeats after 400 years.
    cycles_ms = 21 * 146_097 * 86_400_000
    after_ms = ms("2026-10-24T22:00Z")
    for pattern in ("30 2 * * *", "0 0 29 2 *"):
        near = next_due(read_pattern(pattern, ""), read_zone("Europe/Berlin"), after_ms)
        assert near is not None
        far = next_due(read_pattern(pattern, ""), read_zone("Europe/Berlin"), after_ms + cycles_ms)
        assert far == near + cycles_ms


class CountingZone(Zone):
    """A zone that counts how often it is asked: what a search costs, on any machine."""

    asked = 0

    def offset(self, utc_s: int) -> int:
        self.asked += 1
        return super().offset(utc_s)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "Pacific/Chatham", "America/Nuuk"])
@pytest.mark.parametrize(
    "pattern",
    ["59 59 23 29 2 *", "0 0 * 2 1#5", "59 59 23 31 12 *", "0 0 29 2 1#5", ",".join(map(str, range(23))) + " 1 * * *"],
)
def test_no_search_takes_long(pattern: str, zone: str) -> None:
    counting = CountingZone(read_zone(zone)._rules)  # the same rules, counted
    for hour in range(0, 24 * 400, 131):
        before = counting.asked
        next_due(read_pattern(pattern, ""), counting, ms("2026-11-01T00:00Z") + hour * 3_600_000)
        assert counting.asked - before < 300


@given(st.sets(st.integers(0, 59), min_size=1), st.sets(st.integers(0, 23), min_size=1), st.integers(0, 4_000_000_000))
def test_without_clock_changes_the_next_due_time_is_the_first_match(
    minutes: set[int], hours: set[int], after_s: int
) -> None:
    pattern = read_pattern(f"{','.join(map(str, minutes))} {','.join(map(str, hours))} * * *", "")
    found = next_due(pattern, utc(), after_s * 1000)
    later = range(after_s // 60 + 1, after_s // 60 + 1442)
    assert found == next(m for m in later if m % 60 in minutes and m // 60 % 24 in hours) * 60_000
