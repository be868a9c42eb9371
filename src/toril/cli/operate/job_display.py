"""A job as a person or a script sees it, with its attempts and its log."""

from __future__ import annotations

from typing import Any

from toril.cli.gateway_address import segment
from toril.cli.operate.faults import GatewayRefused
from toril.cli.operate.operator import Operator
from toril.cli.operate.output import moment
from toril.core.times import duration_text

_LINES = 100


def show(op: Operator, queue: str, job_id: str) -> None:
    """Print a job."""
    path = f"/queues/{segment(queue)}/jobs/{segment(job_id)}"
    try:
        job: dict[str, Any] = op.api.get(path, expand="state,logs")
    except GatewayRefused as exc:
        if exc.status == 404:
            op.known_queue(queue)
        raise
    attempts = op.api.get(f"{path}/attempts")["attempts"]
    if op.out.as_json:
        op.out.document(job | {"attempts": attempts})
        return
    op.out.facts(
        (
            ("job", job["id"]),
            ("name", job["name"]),
            ("queue", queue),
            ("state", job["state"]),
            ("added", moment(job["timestamp"])),
            ("started", moment(job.get("processedOn"))),
            ("ended", moment(job.get("finishedOn"))),
            ("attempts", job["attemptsMade"]),
            ("priority", job["priority"] or None),
            ("delay", duration_text(job["delay"] / 1000) if job["delay"] else None),
            ("progress", job["progress"] or None),
            ("data", job["data"]),
            ("options", job["opts"]),
            ("return value", job["returnvalue"]),
            ("failed with", job.get("failedReason")),
            ("stack trace", "\n".join(str(line) for line in job["stacktrace"] or [])),
        )
    )
    if attempts:
        rows = [tuple(_cell(one, name) for name in _COLUMNS.values()) for one in attempts]
        op.out.line("")
        op.out.table(tuple(_COLUMNS), rows, empty="")
    logs = job["logs"]
    if logs["logs"]:
        op.out.line("")
        for text in logs["logs"][-_LINES:]:
            op.out.line(text)
        if logs["count"] > _LINES:
            op.out.note(f"the last {_LINES} of {logs['count']} lines")


_COLUMNS = {
    "ATTEMPT": "attempt",
    "AT": "at",
    "BY": "by",
    "OUTCOME": "outcome",
    "STATUS": "status",
    "TOOK": "duration_ms",
    "REASON": "reason",
}


def _cell(attempt: dict[str, Any], name: str) -> object:
    value = attempt.get(name)
    if name == "at":
        return moment(value) or value
    if name == "duration_ms" and value is not None:
        return duration_text(value / 1000)
    return value
