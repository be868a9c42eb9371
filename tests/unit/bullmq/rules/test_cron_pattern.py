import pytest

from toril.bullmq.rules.cron_pattern import PatternFault, read_pattern


@pytest.mark.parametrize(
    ("pattern", "same"),
    [
        ("@daily", "0 0 * * *"),
        ("@minutely", "* * * * *"),
        ("@secondly", "* * * * * *"),
        ("@weekdays", "0 0 * * 1-5"),
        ("@weekends", "0 0 * * 6,0"),
        ("0 0 * JAN-MAR Mon-fri", "0 0 * 1-3 1-5"),
        ("\t0  6 * * * ", "0 0 6 * * *"),
        ("5", "* * * * 5"),
        ("10/20 * * * *", "10,30,50 * * * *"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("1-3-9 * * * *", "1,2,3 * * * *"),
    ],
)
def test_two_patterns_mean_the_same(pattern: str, same: str) -> None:
    one, other = read_pattern(pattern, "s"), read_pattern(same, "s")
    assert [one.seconds, one.minutes, one.hours, one.months] == [
        other.seconds,
        other.minutes,
        other.hours,
        other.months,
    ]
    assert (one.weekdays & set(range(7))) == (other.weekdays & set(range(7)))


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("", "it is empty"),
        ("nonsense", "'non' is no month"),
        ("60 * * * *", "minute: '60' is not from 0 to 59"),
        ("* * * * * * *", "too many fields"),
        ("0 0 * * L5", "L is used"),
        ("0 0 * * L", "L is used"),
        ("0 0 R * *", "characters that do not belong"),
        ("R * * * *", "minute: 'R' has characters"),
        ("0 0 30 2 *", "a day that none of its months has"),
        ("0 0 31 4,6,9,11 *", "a day that none of its months has"),
        ("0 0 * * 1#6", "a number from 1 to 5"),
        ("0 0 * * 1,2#3", "# and , do not go together"),
        ("1,1 * * * *", "a value comes twice"),
        ("0 0 * * 0,7", "a value comes twice"),
        ("*/0 * * * *", "a step of 1 or more"),
        ("5-1 * * * *", "ends before it begins"),
        ("1,, * * * *", "an empty place"),
        ("1/2/3 * * * *", "two steps"),
        ("@reboot", "day of week"),
        ("0 " * 600, "too long"),
        ("H(9-3) * * * *", "ends before it begins"),
        ("H/0 * * * *", "a step of 1 or more"),
        ("H/1," * 200 + "1 * * * *", "more than 256 values"),
    ],
)
def test_an_unreadable_pattern_is_refused_with_the_reason(pattern: str, fault: str) -> None:
    with pytest.raises(PatternFault) as refused:
        read_pattern(pattern, "s")
    assert fault in str(refused.value)


def test_the_seed_alone_decides_what_h_stands_for() -> None:
    assert read_pattern("H H * * *", "one") == read_pattern("H H * * *", "one")
    assert len({read_pattern("H H * * *", str(seed)).minutes for seed in range(50)}) > 20


def test_h_stays_within_its_range() -> None:
    for seed in range(100):
        pattern = read_pattern("H(10-19)/5 H(3-4) H * *", str(seed))
        assert all(10 <= minute <= 19 for minute in pattern.minutes)
        assert set(pattern.hours) <= {3, 4}
        assert all(1 <= day <= 31 for day in pattern.days)
