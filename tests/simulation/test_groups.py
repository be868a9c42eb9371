"""The world of groups finds slots that leak, and locks that are taken back without their slot."""

import pytest

from tests.simulation.grouped_store import GroupedStore
from tests.simulation.queue_store import WatchedStore
from tests.simulation.run import Found, simulate
from toril.bullmq.rules.groups import GroupSchedule


def live(seeds: int) -> None:
    for seed in range(seeds):
        simulate("groups", seed)


def test_slots_that_are_never_freed_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupSchedule, "free", lambda schedule, name, job: None)
    with pytest.raises(Found, match="not ended"):
        live(50)


def test_a_lock_that_is_taken_back_after_its_slot_was_given_away_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupedStore, "_may_renew", WatchedStore._may_renew)
    with pytest.raises(Found, match="group"):
        live(500)


def test_a_group_that_starts_more_jobs_than_it_may_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupSchedule, "_may_start", lambda schedule, name, now_ms: True)
    with pytest.raises(Found, match="group"):
        live(50)
