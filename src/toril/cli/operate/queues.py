"""`toril queues`: lists, shows, pauses and resumes queues."""

from __future__ import annotations

from typing import Any

import click

from toril.cli.gateway_address import segment
from toril.cli.operate.listing_group import ListingGroup
from toril.cli.operate.operator import Operator, operating, queue_argument
from toril.cli.operate.output import moment
from toril.cli.options import COUNT
from toril.core.times import duration_text

_PAGE = 1000
_SHOWN = ("waiting", "active", "delayed", "completed", "failed")


@click.group("queues", cls=ListingGroup)
def queues() -> None:
    """List, show, pause and resume queues."""


@queues.command("ls")
@click.option("--match", metavar="GLOB", help="only queues whose names fit (default '*')")
@click.option("--limit", type=COUNT, metavar="N", help="how many at most (default all)")
@operating
def list_queues(op: Operator, match: str | None, limit: int | None) -> None:
    """List queues with the numbers of their jobs."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while limit is None or len(found) < limit:
        most = _PAGE if limit is None else min(_PAGE, limit - len(found))
        page = op.api.get("/queues", match=match, limit=most, cursor=cursor)
        found += page["queues"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    if op.out.as_json:
        op.out.document({"queues": found})
        return
    rows = [(one["name"], *(_count(one, state) for state in _SHOWN), _paused(one["paused"])) for one in found]
    op.out.table(("QUEUE", *(state.upper() for state in _SHOWN), ""), rows, empty="there are no queues")


def _count(queue: dict[str, Any], state: str) -> int:
    counts = queue["counts"]
    if state == "waiting":
        return sum(int(counts.get(name, 0)) for name in ("waiting", "paused", "prioritized"))
    return int(counts.get(state, 0))


def _paused(paused: object) -> str:
    return "paused" if paused else ""


@queues.command("show")
@queue_argument()
@operating
def show_queue(op: Operator, queue: str) -> None:
    """Show a queue: its counts, limits and workers."""
    op.known_queue(queue)
    found = op.api.get(f"/queues/{segment(queue)}")
    if op.out.as_json:
        op.out.document(found)
        return
    oldest = found.get("oldestWaitingAge")
    limit = found.get("rateLimit")
    op.out.facts(
        (
            ("queue", found["name"]),
            ("state", "paused" if found["paused"] else "running"),
            ("paused since", moment(found.get("pausedSince"))),
            *((state, count) for state, count in found["counts"].items() if count),
            ("oldest waits", None if oldest is None else duration_text(round(oldest / 1000))),
            ("concurrency", found.get("concurrency")),
            ("rate limit", limit and f"{limit['max']} per {duration_text(limit['duration'] / 1000)}"),
            ("workers", "\n".join(worker.get("name") or worker.get("addr", "") for worker in found["workers"])),
            ("warnings", "\n".join(found.get("warnings") or [])),
        )
    )


@queues.command("pause")
@queue_argument()
@operating
def pause_queue(op: Operator, queue: str) -> None:
    """Pause a queue: no worker takes jobs from it."""
    _switch(op, queue, "pause", "is paused")


@queues.command("resume")
@queue_argument()
@operating
def resume_queue(op: Operator, queue: str) -> None:
    """Resume a paused queue."""
    _switch(op, queue, "resume", "goes on")


def _switch(op: Operator, queue: str, action: str, became: str) -> None:
    op.known_queue(queue)  # pausing would make one that is not there
    op.api.send("POST", f"/queues/{segment(queue)}/{action}")
    if op.out.as_json:
        op.out.document({"queue": queue, "paused": action == "pause"})
    else:
        op.out.line(f"{queue} {became}")
