from toril.core.metrics import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    JOB_SECONDS,
    JOBS_ADDED,
    JOBS_STALLED,
    WAIT_SECONDS,
    Metric,
)
from toril.telemetry.prometheus_meter import PrometheusMeter
from toril.telemetry.rules.increments import COUNTED, Increments
from toril.telemetry.rules.points import ACCEPTED, ATTEMPTS_FAILED, FAILED, FINISHED, STALLED, TOOK, WAITS, Counts, add

PUSH = ("push_worker", "orders")


def meter() -> PrometheusMeter:
    return PrometheusMeter(100, lambda: 0.0)


def since(increments: Increments, measured: PrometheusMeter) -> dict[str, Counts]:
    found: dict[str, Counts] = {}
    for metric in COUNTED:
        for queue, counts in increments.since(metric, measured.series(metric)).items():
            add(found.setdefault(queue, {}), counts)
    return found


def attempt(measured: PrometheusMeter, verdict: str, outcome: str = "5xx") -> None:
    measured.count(ATTEMPTS, (*PUSH, outcome, verdict))


def test_everything_that_a_queue_does_is_counted_once() -> None:
    measured, increments = meter(), Increments({})
    measured.count(JOBS_ADDED, ("orders",), 3)
    measured.observe(WAIT_SECONDS, PUSH, 0.0)
    measured.observe(ATTEMPT_SECONDS, PUSH, 0.002)
    measured.observe(JOB_SECONDS, ("orders", "complete"), 0.0)
    measured.observe(JOB_SECONDS, ("orders", "fail"), 1.0)
    measured.observe(JOB_SECONDS, ("orders", "dead_letter"), 1.0)
    measured.count(JOBS_STALLED, ("orders",))
    for verdict in ("complete", "retry", "fail", "dead_letter", "release", "snooze"):
        attempt(measured, verdict)
    wanted = {
        ACCEPTED: 3, WAITS: 1, TOOK + 1: 1, FINISHED: 1, FAILED: 2, STALLED: 1, ATTEMPTS_FAILED: 3,
    }  # fmt: skip
    assert since(increments, measured) == {"orders": wanted}
    assert since(increments, measured) == {}
    measured.observe(JOB_SECONDS, ("orders", "complete"), 0.0)
    assert since(increments, measured) == {"orders": {FINISHED: 1}}


def test_a_measured_value_of_zero_is_counted() -> None:
    measured, increments = meter(), Increments({})
    for _ in range(2):
        measured.observe(WAIT_SECONDS, PUSH, 0.0)
        assert since(increments, measured) == {"orders": {WAITS: 1}}


def test_measurements_of_a_previous_process_are_not_counted_again() -> None:
    measured = meter()
    measured.count(JOBS_ADDED, ("orders",), 3)
    seen: dict[Metric, dict[tuple[str, ...], list[float]]] = {one: dict(measured.series(one)) for one in COUNTED}
    increments = Increments(seen)
    assert since(increments, measured) == {}
    measured.count(JOBS_ADDED, ("orders",))
    assert since(increments, measured) == {"orders": {ACCEPTED: 1}}


def test_kinds_of_destinations_of_one_queue_are_added() -> None:
    measured, increments = meter(), Increments({})
    for kind in ("push_worker", "pull"):
        measured.observe(ATTEMPT_SECONDS, (kind, "orders"), 0.0001)
    assert since(increments, measured) == {"orders": {TOOK: 2}}
