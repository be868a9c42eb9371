from datetime import UTC, datetime

import pytest

from toril.core.zones import read_zone

WINTER = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        ("UTC", 0), ("gmt", 0), ("Europe/Berlin", 1), ("europe/BERLIN", 1), ("utc+3", 3), ("UTC-9:30", -9.5),
        ("utc-0:30", -0.5), ("PST", -8), ("Etc/GMT+5", -5), ("Asia/Kolkata", 5.5), ("utc", 0),
    ],
)  # fmt: skip
def test_a_zone_is_read_as_node_reads_it(name: str, hours: float) -> None:
    assert read_zone(name).offset(WINTER) == hours * 3600


@pytest.mark.parametrize(
    "name", ["Mars/Olympus", "", "localtime", "Factory", "../UTC", "/etc/passwd", "+05:30", "UTC+3:5"]
)
def test_what_is_no_zone_to_node_is_none_here(name: str) -> None:
    with pytest.raises(ValueError, match="Unknown time zone"):
        read_zone(name)


def test_a_time_that_the_clocks_skip_is_as_much_later() -> None:
    zone = read_zone("Europe/Berlin")
    skipped = int(datetime(2027, 3, 28, 2, 30, tzinfo=UTC).timestamp())
    assert zone.moment(skipped, 3600) == int(datetime(2027, 3, 28, 1, 30, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(("near_s", "hour"), [(7200, 0), (3600, 1)])
def test_of_two_moments_with_the_same_time_the_offset_tells(near_s: int, hour: int) -> None:
    zone = read_zone("Europe/Berlin")
    twice = int(datetime(2026, 10, 25, 2, 30, tzinfo=UTC).timestamp())
    assert zone.moment(twice, near_s) == int(datetime(2026, 10, 25, hour, 30, tzinfo=UTC).timestamp())
