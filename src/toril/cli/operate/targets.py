"""`toril targets`: lists, shows, pauses and resumes targets."""

from __future__ import annotations

from typing import Any

import click

from toril.cli.gateway_address import segment
from toril.cli.operate.listing_group import ListingGroup
from toril.cli.operate.operator import Operator, operating, target_argument
from toril.core.times import duration_text


@click.group("targets", cls=ListingGroup)
def targets() -> None:
    """List, show, pause and resume the targets of deliveries."""


@targets.command("ls")
@operating
def list_targets(op: Operator) -> None:
    """List targets with their status."""
    found = op.api.get("/targets")
    if op.out.as_json:
        op.out.document(found)
        return
    rows = [
        (
            one["name"],
            _state(one),
            one["breaker"]["state"],
            one["depth"]["queued"],
            one["depth"]["retrying"],
            one["in_flight"],
            one["dead_letters"],
            one["config"]["url"],
        )
        for one in found["targets"]
    ]
    columns = ("TARGET", "STATE", "BREAKER", "QUEUED", "RETRYING", "IN FLIGHT", "DEAD", "URL")
    op.out.table(columns, rows, empty="there are no targets")


def _state(target: dict[str, Any]) -> str:
    if target["paused"]:
        return "paused"
    return "held" if target["held_until"] else "running"


@targets.command("show")
@target_argument()
@operating
def show_target(op: Operator, target: str) -> None:
    """Show a target: its configuration, breaker, depth and failures."""
    op.known_target(target)
    found = op.api.get(f"/targets/{segment(target)}")
    if op.out.as_json:
        op.out.document(found)
        return
    oldest, recent = found["oldest_age_s"], found["recent"]
    op.out.facts(
        (
            ("target", found["name"]),
            ("state", _state(found)),
            ("paused since", found["paused_since"]),
            ("held until", found["held_until"]),
            ("breaker", found["breaker"]["state"]),
            ("opened at", found["breaker"]["opened_at"]),
            *found["depth"].items(),
            ("oldest waits", None if oldest is None else duration_text(round(oldest))),
            ("dead letters", found["dead_letters"]),
            (
                "attempts",
                f"{recent['attempts']}, {recent['failed']} failed, in the last {recent['window_s'] // 60} minutes",
            ),
            ("needs a restart", ", ".join(found["pending_rollout"])),
            ("configuration", found["config"]),
        )
    )


@targets.command("pause")
@target_argument()
@operating
def pause_target(op: Operator, target: str) -> None:
    """Pause a target on all instances; attempts under way continue."""
    _switch(op, target, "pause", "is paused")


@targets.command("resume")
@target_argument()
@operating
def resume_target(op: Operator, target: str) -> None:
    """Resume a paused target, and end a hold that it asked for."""
    _switch(op, target, "resume", "goes on")


def _switch(op: Operator, target: str, action: str, became: str) -> None:
    op.known_target(target)
    op.api.send("POST", f"/targets/{segment(target)}/{action}")
    if op.out.as_json:
        op.out.document({"target": target, "paused": action == "pause"})
    else:
        op.out.line(f"{target} {became}")
