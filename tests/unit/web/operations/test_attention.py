import pytest

from toril.core.metrics import QueueDepth
from toril.telemetry.failures import STALLED, Failure
from toril.web.operations.attention import Working, about_attempts, about_depth, about_stalls, is_late
from toril.web.operations.stats_shapes import Fact, Place

ORDERS = Place("queues", "orders")
BILLING = Place("delivery", "billing")
DAY_S = 24 * 3600.0


def depth(waiting: int, oldest_s: float, *, active: int = 0, paused: bool = False) -> QueueDepth:
    return QueueDepth("orders", {"waiting": waiting, "active": active}, oldest_s, paused)


@pytest.mark.parametrize(
    ("queue", "working", "kind", "text"),
    [
        (depth(0, 0), Working(True), None, ""),
        (depth(9, 59), Working(False), None, ""),
        (
            depth(1, 400),
            Working(False),
            "not_worked_on",
            "No worker takes its jobs. 1 job waits, the oldest for 6m 40s.",
        ),
        (depth(9, 61, active=1), Working(False), None, ""),
        (depth(3106, 400), Working(True), "oldest_grows", "The oldest of 3,106 jobs that wait is 6m 40s old."),
        (depth(9, 400), Working(True, 90_000), "held", "Nothing starts for another 1m 30s. 9 jobs wait."),
        (depth(9, DAY_S + 3600), Working(True, 90_000), "oldest_grows", "The oldest of 9 jobs that wait is 1d 1h old."),
        (depth(212, 7200, paused=True), Working(True), "paused", "212 jobs wait."),
        (depth(0, 0, paused=True), Working(True), "paused", "Nothing waits."),
        (depth(2, DAY_S, paused=True), Working(True), "paused_long", "2 jobs wait, the oldest for 1d."),
    ],
)
def test_a_queue_is_judged_by_what_waits(queue: QueueDepth, working: Working, kind: str | None, text: str) -> None:
    found = about_depth(ORDERS, queue, working)
    assert found == (None if kind is None else Fact(kind, "queue", "orders", None, text))  # type: ignore[arg-type]


def test_a_target_is_called_by_its_name() -> None:
    found = about_depth(BILLING, depth(1, 0, paused=True), Working(True))
    assert found == Fact("paused", "target", "billing", None, "1 job waits.")


def test_a_paused_queue_is_not_late() -> None:
    assert is_late(depth(1, 300))
    assert not is_late(depth(1, 300, paused=True))
    assert not is_late(depth(0, 300))


@pytest.mark.parametrize(("made", "failed", "told"), [(100, 4, False), (5, 5, True), (10, 5, True), (11, 5, False)])
def test_a_worker_is_failing_once_half_of_its_attempts_fail(made: int, failed: int, told: bool) -> None:
    found = about_attempts(ORDERS, made, failed, Failure("orders", "boom", failed, 1.0))
    assert (found is not None) is told
    if found is not None:
        text = f"{failed} of {made} attempts failed in the last ten minutes, the last one with: boom"
        assert found == Fact("worker_failing", "worker", "orders", None, text)


def test_failing_attempts_are_attributed_to_a_target_or_a_worker() -> None:
    last = Failure("q", "boom", 5, 1.0)
    kinds = [about_attempts(place, 5, 5, last) for place in (BILLING, Place("proxy", "default/api"))]
    assert [(one.kind, one.what) for one in kinds if one] == [("target_failing", "target"), ("worker_failing", "queue")]


def test_stalls_are_told_for_ten_minutes() -> None:
    last = Failure("orders", STALLED, 2, 1000.0)
    found = about_stalls(ORDERS, last, 1500.0)
    assert found is not None
    assert (found.kind, found.since) == ("stalled", "1970-01-01T00:16:40.000Z")
    assert about_stalls(ORDERS, last, 1601.0) is None
    assert about_stalls(ORDERS, Failure("orders", "boom", 2, 1000.0), 1500.0) is None
