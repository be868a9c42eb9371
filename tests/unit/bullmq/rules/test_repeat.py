from datetime import datetime
from typing import Any

import pytest

from toril.bullmq.rules.repeat import Due, RepeatFault, read_repeat
from toril.bullmq.time_zones import read_zone

NOW = int(datetime.fromisoformat("2026-11-29T10:00:30Z").timestamp() * 1000)
HOUR = 3_600_000


def next_at(previous: int = 0, **options: Any) -> int | None:
    due = read_repeat({"pattern": "0 * * * *"} | options, "tick", read_zone).next(NOW, previous)
    return None if due is None else due.at_ms - NOW + 30_000


def test_a_pattern_counts_from_now_or_from_the_job_before_where_that_is_later() -> None:
    assert next_at() == HOUR
    assert next_at(previous=NOW - HOUR) == HOUR
    assert next_at(previous=NOW - 30_000 + HOUR) == 2 * HOUR


def test_start_and_end_bound_the_schedule() -> None:
    assert next_at(startDate=NOW + 10 * HOUR) == 11 * HOUR
    assert next_at(startDate=NOW - 30_000 + 10 * HOUR) == 11 * HOUR, "the start itself is not a due time"
    assert next_at(startDate=0) == next_at(startDate=NOW - HOUR) == HOUR
    assert next_at(endDate=NOW - 30_000 + HOUR) == HOUR, "the end is included"
    assert next_at(endDate=NOW + HOUR // 2) is None
    assert next_at(endDate=NOW - 1) is None
    assert next_at(endDate="2026-11-29T11:00:00Z") == HOUR


def test_the_limit_counts_the_jobs_made() -> None:
    assert next_at(limit=1) == HOUR
    assert next_at(limit=2, count=1) == HOUR
    assert next_at(limit=2, count=2) is None


def test_immediately_makes_the_first_job_due_now_and_is_not_passed_on() -> None:
    repeat = read_repeat({"pattern": "0 * * * *", "immediately": True}, "tick", read_zone)
    assert repeat.next(NOW, 0) == Due(NOW, by_pattern=True)
    assert "immediately" not in repeat.stored()


def test_the_next_job_carries_the_repeat_options() -> None:
    given = {"every": 1000, "offset": 20, "limit": 9, "count": 3, "endDate": "2030-01-01T00:00:00Z", "hashSeed": "x"}
    assert read_repeat(given, "tick", read_zone).stored() == {
        "every": 1000, "offset": 20, "limit": 9, "count": 4, "endDate": 1_893_456_000_000, "hashSeed": "x",
    }  # fmt: skip
    assert "offset" not in read_repeat({"pattern": "0 * * * *", "offset": 20}, "tick", read_zone).stored()


def test_the_zone_of_a_machine_is_read_as_utc() -> None:
    for zone in (None, "", "local", "system"):
        assert next_at(tz=zone) == HOUR


def test_h_in_a_pattern_stands_for_the_same_value_in_every_job_of_a_scheduler() -> None:
    def minute(scheduler: str, **options: Any) -> int:
        due = read_repeat({"pattern": "H H * * *"} | options, scheduler, read_zone).next(NOW, 0)
        assert due is not None
        return due.at_ms

    assert minute("a") == minute("a")
    assert minute("a") != minute("b")
    assert minute("a", hashSeed="b") == minute("b")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (None, "repeat"),
        ([], "repeat"),
        ({}, "pattern"),
        ({"pattern": "* * * * *", "every": 5}, "pattern"),
        ({"pattern": 5}, "pattern"),
        ({"pattern": "every full moon"}, "pattern"),
        ({"pattern": "* * * * *", "tz": "Mars/Olympus"}, "tz"),
        ({"pattern": "* * * * *", "tz": 5}, "tz"),
        ({"every": "soon"}, "every"),
        ({"every": 5, "limit": "few"}, "limit"),
        ({"every": 5, "startDate": "tomorrow"}, "startDate"),
        ({"every": 5, "endDate": 9e15}, "endDate"),
    ],
)
def test_unreadable_repeat_options_name_the_field(options: Any, field: str) -> None:
    with pytest.raises(RepeatFault) as refused:
        read_repeat(options, "tick", read_zone)
    assert refused.value.field == field
