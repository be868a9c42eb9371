"""How often an instance looks for new rows."""

import itertools

from toril.delivery.sql_enqueue.look_pace import ATTENTION_S, LookPace

SELDOM_S, OFTEN_S = 1.0, 0.02


def test_a_row_now_and_then_is_notified() -> None:
    pace = LookPace()
    for second in range(20):
        assert not pace.looked(second * 0.2, found=True)
        assert pace.pause_s(second * 0.2) == SELDOM_S


def test_rows_one_after_the_other_are_looked_for_often_and_not_notified() -> None:
    pace = LookPace()
    told = [pace.looked(number * 0.02, found=True) for number in range(500)]
    assert told[:5] == [False, False, False, False, True]
    assert pace.pause_s(10.0) == OFTEN_S
    times = [number * 0.02 for number, one in enumerate(told) if one]
    assert all(later - earlier < ATTENTION_S for earlier, later in itertools.pairwise(times)), "no gap"
    assert len(times) < 15, "a row is written about once a second"


def test_the_instance_looks_often_for_longer_than_callers_were_told() -> None:
    pace = LookPace()
    assert [pace.looked(number * 0.02, found=True) for number in range(5)][-1]
    until_s = 0.08 + ATTENTION_S
    now_s, told = 0.08, 0
    while pace.pause_s(now_s) == OFTEN_S:
        now_s += 0.02
        told += pace.looked(now_s, found=False)
        until_s = now_s + ATTENTION_S if told else until_s
    assert now_s >= until_s + 0.5
    assert told <= 1
    assert now_s < 10
