from datetime import UTC, datetime

import pytest

from toril.bullmq.time_zones import read_zone

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
def test_a_zone_that_node_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="Unknown time zone"):
        read_zone(name)


def test_a_skipped_local_time_is_moved_forward_by_the_gap() -> None:
    zone = read_zone("Europe/Berlin")
    skipped = int(datetime(2027, 3, 28, 2, 30, tzinfo=UTC).timestamp())
    assert zone.moment(skipped, 3600) == int(datetime(2027, 3, 28, 1, 30, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(("near_s", "hour"), [(7200, 0), (3600, 1)])
def test_a_repeated_local_time_is_resolved_by_the_nearest_offset(near_s: int, hour: int) -> None:
    zone = read_zone("Europe/Berlin")
    twice = int(datetime(2026, 10, 25, 2, 30, tzinfo=UTC).timestamp())
    assert zone.moment(twice, near_s) == int(datetime(2026, 10, 25, hour, 30, tzinfo=UTC).timestamp())
