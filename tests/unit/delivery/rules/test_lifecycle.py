"""A delivery's states: the table, and what is wrong with a history that does not keep it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.delivery.rules.lifecycle import NEXT, OPEN, TERMINAL, WAITING, Status, Transition, faults, may_follow


@st.composite
def histories(draw: st.DrawFn) -> list[Transition]:
    """Any walk through the table."""
    status: Status | None = None
    walk: list[Transition] = []
    for seq in range(1, draw(st.integers(1, 12)) + 1):
        following = sorted(NEXT[status])
        if not following:
            break
        to = draw(st.sampled_from(following))
        walk.append(Transition(seq=seq, source=status, to=to, at_s=float(seq)))
        status = to
    return walk


def test_every_state_is_open_or_terminal_and_has_its_row() -> None:
    assert frozenset(Status) == OPEN | TERMINAL
    assert not OPEN & TERMINAL
    assert WAITING <= OPEN
    assert set(NEXT) == {None, *Status}


def test_only_a_dead_letter_can_be_reopened() -> None:
    assert {status for status in TERMINAL if NEXT[status]} == {Status.DEAD_LETTERED}
    assert NEXT[Status.DEAD_LETTERED] == {Status.QUEUED}


@pytest.mark.parametrize("status", sorted(OPEN))
def test_an_open_delivery_may_be_cancelled_or_dead_lettered(status: Status) -> None:
    assert may_follow(status, Status.CANCELLED)
    assert may_follow(status, Status.DEAD_LETTERED)


def test_a_delivery_begins_queued_and_nothing_is_delivered_unless_it_was_dispatched() -> None:
    assert NEXT[None] == {Status.QUEUED}
    assert [status for status in NEXT if may_follow(status, Status.DELIVERED)] == [Status.DISPATCHING]


@given(histories())
def test_a_walk_through_the_table_has_no_faults(history: list[Transition]) -> None:
    assert faults(history) == []


@given(histories(), st.data())
def test_a_history_with_a_step_left_out_before_its_end_is_found(history: list[Transition], data: st.DataObject) -> None:
    if len(history) < 2:
        return
    gone = data.draw(st.integers(0, len(history) - 2))
    assert faults(history[:gone] + history[gone + 1 :])


@given(histories(), st.data())
def test_a_history_with_an_illegal_step_is_found(history: list[Transition], data: st.DataObject) -> None:
    last = history[-1]
    illegal = data.draw(st.sampled_from([status for status in Status if not may_follow(last.source, status)]))
    assert faults([*history[:-1], msgspec.structs.replace(last, to=illegal)])


def test_an_empty_history_is_a_fault() -> None:
    assert faults([]) == ["there is no transition"]
