"""`toril workers`: lists, shows, pauses and resumes registered workers."""

from __future__ import annotations

from typing import Any

import click

from toril.cli.gateway_address import segment
from toril.cli.operate.faults import CommandFailed, GatewayRefused
from toril.cli.operate.listing_group import ListingGroup
from toril.cli.operate.operator import Operator, operating, queue_argument
from toril.cli.operate.output import moment
from toril.core.suggestions import did_you_mean
from toril.core.times import duration_text

_OTHER_STATES = ("paused", "invalid")


@click.group("workers", cls=ListingGroup)
def workers() -> None:
    """List, show, pause and resume registered workers."""


@workers.command("ls")
@click.option("--connected", is_flag=True, help="those on sockets and with leases instead, and how many jobs they have")
@operating
def list_workers(op: Operator, *, connected: bool) -> None:
    """List registered workers with their endpoints."""
    if connected:
        _list_connected(op)
        return
    urls: dict[str, str] = op.api.get("/workers")
    states = {queue: state for state in _OTHER_STATES for queue in op.api.get("/workers", state=state)}
    found = [{"queue": queue, "url": url, "state": states.get(queue, "running")} for queue, url in sorted(urls.items())]
    if op.out.as_json:
        op.out.document({"workers": found})
        return
    rows = [(one["queue"], one["state"], one["url"]) for one in found]
    op.out.table(("QUEUE", "STATE", "URL"), rows, empty="no workers are registered")


def _list_connected(op: Operator) -> None:
    found = op.api.get("/connections")
    if op.out.as_json:
        op.out.document(found)
        return
    rows = [
        (one["queue"], kind, one.get("worker") or one.get("token") or "", one["holding"])
        for kind in ("sockets", "leases")
        for one in found[kind]
    ]
    op.out.table(("QUEUE", "BY", "NAME", "JOBS"), rows, empty="no workers are connected")
    if found["left_out"]:
        op.out.note(f"{found['left_out']} more are not shown")


@workers.command("show")
@queue_argument(help="the queue of the worker")
@operating
def show_worker(op: Operator, queue: str) -> None:
    """Show a worker and its last attempts."""
    found = _known(op, queue)
    if op.out.as_json:
        op.out.document(found)
        return
    op.out.facts(
        (
            ("queue", found["queue"]),
            ("state", found["state"]),
            ("reason", found.get("reason")),
            ("endpoint", found["endpoint"]),
            ("options", found["opts"]),
        )
    )
    rows = [
        (moment(one["at"]), one.get("id", ""), one["outcome"], one["status"], duration_text(one["duration_ms"] / 1000))
        for one in found["recent"]
    ]
    op.out.table(("AT", "JOB", "OUTCOME", "STATUS", "TOOK"), rows, empty="it has made no attempts")


@workers.command("pause")
@queue_argument(help="the queue of the worker")
@operating
def pause_worker(op: Operator, queue: str) -> None:
    """Pause a worker on all instances; jobs in flight finish."""
    _switch(op, queue, "pause", "is paused")


@workers.command("resume")
@queue_argument(help="the queue of the worker")
@operating
def resume_worker(op: Operator, queue: str) -> None:
    """Resume a paused worker."""
    _switch(op, queue, "resume", "goes on")


def _switch(op: Operator, queue: str, action: str, became: str) -> None:
    _asked(op, queue, "POST", f"/{action}")
    if op.out.as_json:
        op.out.document({"queue": queue, "paused": action == "pause"})
    else:
        op.out.line(f"the worker of {queue} {became}")


def _known(op: Operator, queue: str) -> dict[str, Any]:
    found: dict[str, Any] = _asked(op, queue, "GET", "")
    return found


def _asked(op: Operator, queue: str, method: str, below: str) -> Any:
    try:
        return op.api.send(method, f"/workers/{segment(queue)}{below}")
    except GatewayRefused as exc:
        if exc.code != "worker_not_found":
            raise
        try:
            near = did_you_mean(queue, op.api.get("/workers"))
        except GatewayRefused:
            near = ""
        raise CommandFailed(f"no worker is registered for {queue!r}{near}") from exc
