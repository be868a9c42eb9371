"""`toril jobs`: lists, shows, adds, retries, removes and follows the jobs of a queue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Raw

from toril.cli.gateway_address import segment
from toril.cli.operate.bulk import JobChoice, act, choosing
from toril.cli.operate.events import tail_jobs
from toril.cli.operate.job_display import show
from toril.cli.operate.listing_group import ListingGroup
from toril.cli.operate.operator import Operator, confirm, operating, queue_argument
from toril.cli.operate.output import moment
from toril.cli.options import COUNT
from toril.core.times import parse_duration_s

STATES = ("active", "waiting", "prioritized", "paused", "delayed", "waiting-children", "failed", "completed")
_PAGE = 100
_LONGEST = 80


@click.group("jobs", cls=ListingGroup)
def jobs() -> None:
    """List, show, add, retry, remove and follow the jobs of a queue."""


@jobs.command("ls")
@queue_argument()
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="only these (default all)")
@click.option("--where", metavar="CONDITION", help="only jobs that fit, such as 'data.customer.id = 42'")
@click.option("--limit", type=COUNT, default=10, metavar="N", help="how many of each state at most (default 10)")
@click.option("--oldest", is_flag=True, help="the oldest of each state, not the newest")
@operating
def list_jobs(
    op: Operator, queue: str, states: tuple[str, ...], where: str | None, limit: int, *, oldest: bool
) -> None:
    """List the jobs of a queue by state, the newest first."""
    order = "oldest" if oldest else "newest"
    found = [job for state in states or STATES for job in _of_state(op, queue, state, where, limit, order)]
    if not found:
        op.known_queue(queue)
    if op.out.as_json:
        op.out.document({"queue": queue, "jobs": found})
        return
    rows = [
        (job["id"], job["name"], job["state"], job["attemptsMade"], moment(job["timestamp"]), _about(job))
        for job in found
    ]
    op.out.table(("ID", "NAME", "STATE", "ATTEMPTS", "ADDED", ""), rows, empty=f"{queue} has no such jobs")


def _of_state(op: Operator, queue: str, state: str, where: str | None, limit: int, order: str) -> list[dict[str, Any]]:
    path = f"/queues/{segment(queue)}"
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(found) < limit:
        if where is None:
            length = min(_PAGE, limit - len(found))
            page = op.api.get(f"{path}/jobs", statuses=state, start=len(found), length=length, order=order)
            more = len(page["jobs"]) == length
        else:
            page = op.api.get(f"{path}/search", where=where, states=state, order=order, cursor=cursor)
            cursor = page["next_cursor"]
            more = cursor is not None
        found += page["jobs"]
        if not more:
            break
    return [job | {"state": state} for job in found[:limit]]


def _about(job: dict[str, Any]) -> str:
    reason = job.get("failedReason")
    text = reason if isinstance(reason, str) and reason else msgspec.json.encode(job["data"]).decode()
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


@jobs.command("show")
@queue_argument()
@click.argument("job_id", metavar="ID", help="the job")
@operating
def show_job(op: Operator, queue: str, job_id: str) -> None:
    """Show a job with its attempts and its log."""
    show(op, queue, job_id)


@jobs.command("add")
@queue_argument()
@click.argument("name", metavar="NAME", help="the name of the job")
@click.option(
    "--data", metavar="JSON", default="{}", help="its data: JSON, @FILE, or - for standard input (default {})"
)
@click.option("--opts", metavar="JSON", default="{}", help="its options as BullMQ has them: JSON, @FILE or -")
@click.option("--id", "job_id", metavar="ID", help="its id; a job that is there already stays as it is")
@click.option("--delay", metavar="DURATION", help="how long it waits first, such as 5m")
@click.option("--priority", type=COUNT, metavar="N", help="its priority; 1 comes first, and after jobs without one")
@click.option("--attempts", type=COUNT, metavar="N", help="how often it is tried at most")
@operating
def add_job(op: Operator, queue: str, name: str, data: str, opts: str, **more: Any) -> None:
    """Add a job to a queue, and print its id."""
    options = msgspec.json.decode(_json(opts, "--opts"))
    if not isinstance(options, dict):
        raise click.UsageError("--opts must be a JSON object")
    delay = more["delay"]
    try:
        more["delay"] = None if delay is None else round(parse_duration_s(delay) * 1000)
    except ValueError as exc:
        raise click.UsageError(f"--delay: {exc}") from exc
    more["jobId"] = more.pop("job_id")
    options |= {option: value for option, value in more.items() if value is not None}
    job = {"name": name, "data": Raw(_json(data, "--data")), "opts": options}
    added = op.api.send("POST", f"/queues/{segment(queue)}/jobs", [job])[0]
    if op.out.as_json:
        op.out.document(added)
    else:
        op.out.line(added["id"])


def _json(text: str, option: str) -> bytes:
    """Return JSON as it was given, byte for byte."""
    try:
        if text == "-":
            found = sys.stdin.buffer.read()
        elif text.startswith("@"):
            found = Path(text[1:]).read_bytes()
        else:
            found = text.encode()
        msgspec.json.decode(found)
    except (OSError, ValueError) as exc:  # msgspec's error is one, and so is that of a lone surrogate
        raise click.UsageError(f"{option}: {exc}") from exc
    return found


@jobs.command("retry")
@queue_argument()
@choosing("failed")
@operating
def retry_jobs(op: Operator, queue: str, choice: JobChoice) -> int:
    """Retry jobs: those with these ids, or with --all or --where all failed ones."""
    return act(op, queue, "retry", choice)


@jobs.command("rm")
@queue_argument()
@choosing(None)
@click.option("--yes", is_flag=True, help="do not ask")
@operating
def remove_jobs(op: Operator, queue: str, choice: JobChoice, *, yes: bool) -> int:
    """Remove jobs and their children: those with these ids, or with --all or --where all that are chosen."""
    if choice.many and not (yes or choice.dry_run):
        confirm(f"Remove the chosen jobs of {queue} for good?")
    return act(op, queue, "remove", choice)


@jobs.command("tail")
@queue_argument()
@click.argument("job_id", metavar="[ID]", required=False, help="one job, until it has ended")
@click.option("--count", type=COUNT, metavar="N", help="end after so many events (default: until Ctrl-C)")
@operating
def tail(op: Operator, queue: str, job_id: str | None, count: int | None) -> int:
    """Print what happens to the jobs of a queue, until Ctrl-C; for one job, until it has ended."""
    return tail_jobs(op, queue, job_id, count)
