"""`toril schedulers`: lists, shows and removes job schedulers."""

from __future__ import annotations

from typing import Any

import click

from toril.cli.gateway_address import segment
from toril.cli.operate.listing_group import ListingGroup
from toril.cli.operate.operator import Operator, operating, queue_argument
from toril.cli.operate.output import moment
from toril.cli.options import COUNT
from toril.core.times import duration_text

_PAGE = 100


@click.group("schedulers", cls=ListingGroup)
def schedulers() -> None:
    """List, show and remove job schedulers."""


@schedulers.command("ls")
@click.option("--queue", metavar="QUEUE", help="only those of this queue")
@click.option("--limit", type=COUNT, default=100, metavar="N", help="how many at most (default 100)")
@operating
def list_schedulers(op: Operator, queue: str | None, limit: int) -> None:
    """List schedulers, the next to make a job first."""
    if queue is not None:
        op.known_queue(queue)
    found: list[dict[str, Any]] = []
    count = 0
    while len(found) < limit:
        length = min(_PAGE, limit - len(found))
        page = op.api.get("/schedulers", queue=queue, start=len(found), length=length)
        found += page["schedulers"]
        count = page["count"]
        if len(page["schedulers"]) < length:
            break
    if op.out.as_json:
        op.out.document({"schedulers": found, "count": count})
        return
    rows = [
        (one["queue"], one["id"], moment(one["next"]), _when(one), one["template"]["name"], one.get("error") or "")
        for one in found
    ]
    op.out.table(("QUEUE", "ID", "NEXT", "WHEN", "JOB", ""), rows, empty="there are no schedulers")


def _when(scheduler: dict[str, Any]) -> str:
    if scheduler.get("pattern"):
        return " ".join((scheduler["pattern"], scheduler.get("tz") or "")).strip()
    every = scheduler.get("every")
    return "" if every is None else f"every {duration_text(every / 1000)}"


@schedulers.command("show")
@queue_argument()
@click.argument("scheduler", metavar="ID", help="the scheduler")
@operating
def show_scheduler(op: Operator, queue: str, scheduler: str) -> None:
    """Show a scheduler and its next times."""
    op.known_queue(queue)
    found = op.api.get(f"/queues/{segment(queue)}/schedulers/{segment(scheduler)}", next=5)
    if op.out.as_json:
        op.out.document(found)
        return
    op.out.facts(
        (
            ("scheduler", found["id"]),
            ("queue", queue),
            ("when", _when(found)),
            ("next", "\n".join(moment(at) for at in found.get("nextTimes") or [found["next"]])),
            ("made", found["iterationCount"]),
            ("job", found["template"]["name"]),
            ("data", found["template"]["data"]),
            ("options", found["template"]["opts"]),
            ("error", found.get("error")),
        )
    )


@schedulers.command("rm")
@queue_argument()
@click.argument("scheduler", metavar="ID", help="the scheduler")
@operating
def remove_scheduler(op: Operator, queue: str, scheduler: str) -> None:
    """Remove a scheduler and its next job."""
    op.known_queue(queue)
    op.api.send("DELETE", f"/queues/{segment(queue)}/schedulers/{segment(scheduler)}")
    if op.out.as_json:
        op.out.document({"queue": queue, "id": scheduler, "removed": True})
    else:
        op.out.line(f"removed {scheduler} of {queue}")
