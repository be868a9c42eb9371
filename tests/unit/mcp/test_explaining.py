"""What an agent is told about a job, in words."""

from typing import Any

import pytest

from toril.mcp.rules.explaining import explained

LAST = {
    "number": 3,
    "durationMs": 30_000,
    "outcome": "timeout",
    "status": None,
    "reason": "Timed out",
    "nextInMs": None,
}


def told(attempts: list[dict[str, Any]] | None = None, **job: Any) -> str:
    return explained(job, attempts or [])


def test_a_job_whose_attempts_ran_out_is_told_with_the_last_one() -> None:
    text = told([LAST], state="failed", failedReason="Timed out", attemptsMade=3, opts={"attempts": 3})
    assert text == (
        "The job failed. The reason: Timed out. 3 of 3 attempts made. The last attempt ended as timeout after 30000 ms."
    )


def test_a_final_failure_is_told_apart_from_attempts_that_ran_out() -> None:
    text = told(state="failed", failedReason="No card!", attemptsMade=1, opts={"attempts": 5})
    assert text == (
        "The job failed. The reason: No card! 1 of 5 attempts made. "
        "It was not tried again, because that failure was final."
    )


def test_a_job_that_waits_for_its_next_attempt_says_what_failed_before() -> None:
    last = LAST | {"status": 503, "outcome": "failed", "reason": "Busy", "nextInMs": 500}
    text = told([last], state="delayed", failedReason="Other", attemptsMade=1, opts={"attempts": 2})
    assert text.startswith("The job waits for its time. Before that it failed with: Other.")
    assert text.endswith("with HTTP status 503 after 30000 ms; the next one came 500 ms later: Busy.")


def test_the_newest_stack_trace_is_told_without_the_line_that_repeats_the_reason() -> None:
    text = told(state="failed", failedReason="no", stacktrace=["Error: old\n  at x", "Error: no\n  at y\n  body: z"])
    assert "It said: at y body: z." in text


@pytest.mark.parametrize("stacktrace", [None, [], "text", [1], [None]])
def test_what_is_no_stack_trace_is_not_told(stacktrace: Any) -> None:
    assert told(state="failed", failedReason="no", stacktrace=stacktrace) == "The job failed. The reason: no."


def test_a_worker_that_was_gone_is_told() -> None:
    assert told(state="waiting", stalledCounter=1).endswith("Once its worker was gone while it had the job.")
    assert told(state="waiting", stalledCounter=2).endswith("2 times its worker was gone while it had the job.")


def test_a_long_reason_is_cut() -> None:
    assert len(told(state="failed", failedReason="x" * 100_000)) < 700


@pytest.mark.parametrize("state", ["waiting", "paused", "active", "completed", "waiting-children", "unknown", "new"])
def test_every_state_makes_a_sentence(state: str) -> None:
    assert told(state=state).startswith("The job ")
