"""Says in plain words what a job's state means, and why it failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toril.mcp.rules.shortening import cut_text

_MOST_REASON = 500
_WAITS = {
    "waiting": "waits for a worker",
    "prioritized": "waits for a worker, by its priority",
    "paused": "waits in a queue that is paused",
    "delayed": "waits for its time",
    "waiting-children": "waits for its children to end",
    "active": "is being worked on",
    "completed": "is done",
    "failed": "failed",
    "unknown": "is in no state: it was removed meanwhile, or is orphaned",
}


def explained(job: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> str:
    """Return a few sentences about a job.

    Args:
        job: as the API shows it, with its state.
        attempts: its attempts that ended, the newest first.
    """
    state = str(job.get("state", "unknown"))
    parts = [f"The job {_WAITS.get(state, f'is {state}')}."]
    reason = job.get("failedReason")
    if reason:
        when = "The reason" if state == "failed" else "Before that it failed with"
        parts.append(f"{when}: {_one_line(str(reason))}")
        if trace := _below_first_line(job.get("stacktrace")):
            parts.append(f"It said: {_one_line(trace)}")
    parts += _about_attempts(job, attempts, failed=state == "failed")
    stalled = job.get("stalledCounter")
    if isinstance(stalled, int) and stalled:
        parts.append(f"{_times(stalled)} its worker was gone while it had the job.")
    return " ".join(parts)


def _about_attempts(job: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]], *, failed: bool) -> list[str]:
    made, opts = job.get("attemptsMade", 0), job.get("opts")
    allowed = max(opts.get("attempts") or 1, 1) if isinstance(opts, Mapping) else 1
    parts = []
    if made:
        parts.append(f"{made} of {allowed} {'attempt' if allowed == 1 else 'attempts'} made.")
    if failed and 0 < made < allowed:
        parts.append("It was not tried again, because that failure was final.")
    if attempts:
        parts.append(_about_last(attempts[0], told=job.get("failedReason")))
    return parts


def _below_first_line(stacktrace: Any) -> str:
    """Return what the newest entry of a stack trace says below its first line, which repeats the reason."""
    newest = stacktrace[-1] if isinstance(stacktrace, list) and stacktrace else ""
    return newest.partition("\n")[2].strip() if isinstance(newest, str) else ""


def _about_last(last: Mapping[str, Any], told: Any) -> str:
    status, reason = last.get("status"), last.get("reason")
    answered = "" if status is None else f" with HTTP status {status}"
    text = f"The last attempt ended as {last.get('outcome')}{answered} after {last.get('durationMs')} ms"
    waits = last.get("nextInMs")
    again = "" if waits is None else f"; the next one came {waits} ms later"
    return f"{text}{again}." if reason in (None, "", told) else f"{text}{again}: {_one_line(str(reason))}"


def _one_line(text: str) -> str:
    line = cut_text(" ".join(text.split()), _MOST_REASON)
    return line if line.endswith((".", "!", "?")) else line + "."


def _times(count: int) -> str:
    return "Once" if count == 1 else f"{count} times"
