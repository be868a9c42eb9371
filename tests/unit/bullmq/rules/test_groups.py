"""The algorithm that chooses whose job starts next: shares, turns, rates, slots."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.bullmq.rules.groups import (
    GroupLimits,
    GroupOption,
    GroupSchedule,
    GroupState,
    check_group,
    check_group_id,
    member_of,
    read_limits,
)
from toril.core.errors import InvalidRequest
from toril.core.group_limits import GroupDefault, GroupRate

NAMES = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8)
NUMBERS = st.one_of(st.none(), st.integers(1, 2**53 - 1))


def backlog(schedule: GroupSchedule, **counts: int) -> None:
    """Let so many jobs of each group wait."""
    for group, count in counts.items():
        for number in range(count):
            schedule.add(group, f"{group}-{number}")


def starts(schedule: GroupSchedule, count: int) -> list[str]:
    """The groups of the next starts; each job ends before the next one starts. `-` is a job without a group."""
    found = []
    for _ in range(count):
        chosen = schedule.start(0)
        if chosen.job is None:
            break
        if chosen.group is not None:
            schedule.free(chosen.group, chosen.job)
        found.append(chosen.group or "-")
    return found


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans())
def test_limits_are_read_as_they_were_stored(
    concurrency: int | None, most: int | None, weight: int | None, max_waiting: int | None, paused: bool
) -> None:
    limit = None if most is None else GroupRate(most, 1000)
    limits = GroupLimits(concurrency, limit, weight, max_waiting, paused)
    assert read_limits(limits.stored()) == limits


def test_a_default_stands_in_for_each_limit_that_a_group_does_not_have() -> None:
    default = GroupDefault(2, GroupRate(1, 1000))
    assert GroupLimits(5).with_default(default) == GroupDefault(5, GroupRate(1, 1000))
    assert GroupLimits(limit=GroupRate(9, 9)).with_default(default) == GroupDefault(2, GroupRate(9, 9))


@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb", "a\x00", "a\x7f", "a\x85", "a\ud800"])
def test_an_id_that_is_too_long_or_no_text_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_group_id(name)


@pytest.mark.parametrize("name", [".", ".."])
def test_an_id_that_clients_remove_from_a_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="no path can hold"):
        check_group_id(name)


@pytest.mark.parametrize(
    "name", ["...", "./x", "%", "a b", "a\u00a0b", "👩\u200d👩\u200d👧", "\u202eabc", "é" * 256, "👧" * 256]
)
def test_any_other_text_is_an_id(name: str) -> None:
    check_group_id(name)


def test_a_number_is_a_group_by_its_digits() -> None:
    option = GroupOption(7)
    check_group(option)
    assert option.name == "7"


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**64])
def test_a_number_that_javascript_cannot_tell_from_others_is_refused(number: int) -> None:
    check_group(GroupOption(2**53 - 1))
    with pytest.raises(InvalidRequest, match="must be a string"):
        check_group(GroupOption(number))


def test_a_member_is_the_first_segment_of_an_id() -> None:
    assert [member_of(name) for name in ("t", "t/1", "t/1/2", "/1")] == ["t", "t", "t", ""]


def test_a_job_of_another_group_is_among_the_next_two() -> None:
    schedule = GroupSchedule()
    backlog(schedule, a=100)
    starts(schedule, 50)
    backlog(schedule, b=1)
    assert "b" in starts(schedule, 2)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_groups_that_all_have_work_start_by_their_weights(weights: list[int]) -> None:
    schedule = GroupSchedule()
    rounds = 20
    for number, weight in enumerate(weights):
        schedule.set_limits(f"g{number}", GroupLimits(weight=weight))
        backlog(schedule, **{f"g{number}": rounds * weight + 50})
    found = Counter(starts(schedule, rounds * sum(weights)))
    for number, weight in enumerate(weights):
        assert abs(found[f"g{number}"] - rounds * weight) <= weight + 1


def test_ids_of_one_member_share_what_one_gets_and_share_it_equally() -> None:
    schedule = GroupSchedule()
    backlog(schedule, other=100, **{f"t/{number}": 100 for number in range(10)})
    found = Counter(starts(schedule, 100))
    assert abs(found["other"] - 50) <= 1
    assert all(found[f"t/{number}"] == 5 for number in range(10))


@given(st.integers(1, 5), st.integers(1, 5))
def test_who_leaves_and_comes_back_gains_nothing(weight: int, other: int) -> None:
    schedule = GroupSchedule()
    schedule.set_limits("steady", GroupLimits(weight=weight))
    schedule.set_limits("coming", GroupLimits(weight=other))
    backlog(schedule, steady=1000)
    found: Counter[str] = Counter()
    for number in range(300):
        if not schedule.waiting().get("coming"):
            schedule.add("coming", f"c-{number}")
        found.update(starts(schedule, 1))
    assert found["coming"] <= 300 * other / (weight + other) + 2


def test_jobs_without_a_group_are_one_group_among_the_others() -> None:
    schedule = GroupSchedule()
    schedule.plain.extend(f"p-{number}" for number in range(100))
    backlog(schedule, a=100, b=100)
    found = Counter(starts(schedule, 90))
    assert all(abs(found[name] - 30) <= 1 for name in "ab-"), found


@given(st.integers(1, 5), st.integers(10, 1000), st.lists(st.floats(0, 300), max_size=200))
def test_no_window_has_more_starts_than_the_rate_allows(most: int, duration: int, steps: list[float]) -> None:
    schedule = GroupSchedule(GroupDefault(limit=GroupRate(most, duration)))
    backlog(schedule, a=1000)
    now, times = 0.0, []
    for step in steps:
        now += step
        if schedule.start(now).job is not None:
            times.append(now)
    for first in range(len(times)):
        for last in range(first, len(times)):
            length = times[last] - times[first]
            assert last - first + 1 <= most + length * most / duration + 1e-6


def test_once_the_burst_is_over_starts_are_evenly_apart_and_the_time_is_told() -> None:
    schedule = GroupSchedule(GroupDefault(limit=GroupRate(10, 1000)))
    backlog(schedule, a=100)
    assert len(starts(schedule, 100)) == 10, "as many at once after a pause"
    told = schedule.start(0)
    assert (told.job, told.at) == (None, 100.0)
    assert schedule.start(100).job is not None
    assert schedule.start(100.0).at == 200.0


@given(st.integers(1, 4), st.lists(st.booleans(), max_size=100))
def test_no_more_run_than_may_and_a_free_worker_never_idles(most: int, ends: list[bool]) -> None:
    schedule = GroupSchedule(GroupDefault(concurrency=most))
    backlog(schedule, a=200, b=200)
    running: list[tuple[str, str]] = []
    for end in ends:
        if end and running:
            schedule.free(*running.pop(0))
            continue
        chosen = schedule.start(0)
        if chosen.job is not None and chosen.group is not None:
            running.append((chosen.group, chosen.job))
        else:
            assert schedule.busy() == {"a": most, "b": most}
        assert all(count <= most for count in schedule.busy().values())


def test_a_promoted_job_passes_rate_and_pause_and_never_concurrency() -> None:
    schedule = GroupSchedule()
    schedule.set_limits("a", GroupLimits(concurrency=1, paused=True))
    backlog(schedule, a=2)
    assert schedule.start(0).job is None
    schedule.promote("a", "a-1")
    assert schedule.start(0).job == "a-1"
    schedule.promote("a", "a-0")
    assert schedule.start(0).job is None
    schedule.free("a", "a-1")
    assert schedule.start(0).job == "a-0"


def test_a_state_tells_until_when_its_rate_holds() -> None:
    state = GroupState("a", 1, 0, GroupLimits(limit=GroupRate(2, 1000)), GroupDefault(), 5000.0)
    assert state.held_until_ms(4000) == 4500
    assert state.held_until_ms(4500) is None
