"""`toril dead-letters`: lists, replays and removes the dead letters of a target."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from msgspec import Struct

from toril.cli.exit_codes import FAILED
from toril.cli.gateway_address import segment
from toril.cli.operate.faults import CommandFailed, GatewayRefused
from toril.cli.operate.operator import Command, Operator, confirm, counted, operating, target_argument
from toril.cli.options import COUNT

_PAGE = 500
_AT_ONCE = 100


class LetterFilter(Struct, frozen=True):
    """Which dead letters, by the parameters of the API; a key of `query` without a value limits nothing."""

    query: dict[str, str | None]

    @property
    def narrows(self) -> bool:
        """True if it limits the choice."""
        return any(value is not None for value in self.query.values())


def filtering(command: Command) -> Command:
    """Return a decorated command: it gets a `which` instead of the options of the filter."""

    @click.option("--reason", metavar="REASON", help="only those with this reason: attempts, refused, deadline, …")
    @click.option("--error-contains", metavar="TEXT", help="only those with this text in their last error")
    @click.option("--since", metavar="TIME", help="only those from this time on (RFC 3339)")
    @click.option("--until", metavar="TIME", help="only those before this time")
    @click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="only those with this label")
    @wraps(command)
    def run(
        *,
        reason: str | None,
        error_contains: str | None,
        since: str | None,
        until: str | None,
        labels: tuple[str, ...],
        **more: Any,
    ) -> int | None:
        query = {"reason": reason, "error_contains": error_contains, "since": since, "until": until}
        for label in labels:
            name, equals, value = label.partition("=")
            if not (name and equals):
                raise click.UsageError(f"--label: {label} is not of the form NAME=VALUE")
            query[f"label.{name}"] = value
        return command(which=LetterFilter(query), **more)

    return run


def choosing(command: Command) -> Command:
    """Return a decorated command with the options by which dead letters are chosen."""

    @click.argument("ids", metavar="ID…", nargs=-1, help="the dead letters")
    @click.option("--all", "every", is_flag=True, help="all of the target's")
    @filtering
    @click.option("--dry-run", is_flag=True, help="do nothing, and say which it would be")
    @wraps(command)
    def run(*, ids: tuple[str, ...], every: bool, which: LetterFilter, **more: Any) -> int | None:
        if bool(ids) + every + which.narrows != 1:
            raise click.UsageError("give either ids, or --all, or filters")
        return command(ids=ids, which=which, **more)

    return run


@click.group("dead-letters")
def dead_letters() -> None:
    """List, replay and purge the dead letters of a target."""


@dead_letters.command("ls")
@target_argument()
@filtering
@click.option("--limit", type=COUNT, default=50, metavar="N", help="how many at most (default 50)")
@operating
def list_letters(op: Operator, target: str, which: LetterFilter, limit: int) -> None:
    """List dead letters, the newest first."""
    found = _found(op, target, which, limit)
    if op.out.as_json:
        op.out.document({"target": target, "jobs": found})
        return
    rows = [(one["job_id"], one["updated_at"], one["attempts_made"], one["reason"], one["last_error"]) for one in found]
    op.out.table(("ID", "SINCE", "ATTEMPTS", "REASON", "LAST ERROR"), rows, empty=f"{target} has no such dead letters")


@dead_letters.command("replay")
@target_argument()
@choosing
@click.option("--new-key", is_flag=True, help="send another idempotency-key from now on")
@operating
def replay_letters(
    op: Operator, target: str, ids: tuple[str, ...], which: LetterFilter, *, dry_run: bool, new_key: bool
) -> int:
    """Replay dead letters: those with these ids, or with --all or filters all that are chosen."""
    op.known_target(target)
    path = f"/targets/{segment(target)}/dead-letters/replay"
    more = {"replay_key": "new"} if new_key else {}

    def replay(some: list[str]) -> list[str]:
        asked = {"job_ids": some, "dry_run": dry_run} | more
        return list(op.api.send("POST", path, asked)["job_ids"])

    return _each(op, target, _chosen(op, target, ids, which), replay, "replayed", dry_run=dry_run)


@dead_letters.command("purge")
@target_argument()
@choosing
@click.option("--yes", is_flag=True, help="do not ask")
@operating
def purge_letters(
    op: Operator, target: str, ids: tuple[str, ...], which: LetterFilter, *, dry_run: bool, yes: bool
) -> int:
    """Remove dead letters for good: those with these ids, or with --all or filters all that are chosen."""
    op.known_target(target)
    chosen = _chosen(op, target, ids, which)
    if not (ids or yes or dry_run or not chosen):
        confirm(f"Remove {counted(len(chosen), 'dead letter')} of {target} for good?")
    letters = f"/targets/{segment(target)}/dead-letters"

    def purge(some: list[str]) -> list[str]:
        if dry_run:
            return list(op.api.send("POST", f"{letters}/replay", {"job_ids": some, "dry_run": True})["job_ids"])
        return [job_id for job_id in some if _purged(op, f"{letters}/{segment(job_id)}")]

    return _each(op, target, chosen, purge, "purged", dry_run=dry_run)


def _purged(op: Operator, path: str) -> bool:
    """Remove a dead letter; return False if there is none any longer."""
    try:
        op.api.send("DELETE", path)
    except GatewayRefused as exc:
        if exc.status in (404, 409):
            return False
        raise
    return True


def _chosen(op: Operator, target: str, ids: tuple[str, ...], which: LetterFilter) -> list[str]:
    """Return the ids of the chosen dead letters: what becomes one meanwhile is not among them."""
    return list(dict.fromkeys(ids)) or [one["job_id"] for one in _found(op, target, which, None)]


def _found(op: Operator, target: str, which: LetterFilter, limit: int | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while limit is None or len(found) < limit:
        most = _PAGE if limit is None else min(_PAGE, limit - len(found))
        try:
            page = op.api.get(f"/targets/{segment(target)}/dead-letters", limit=most, cursor=cursor, **which.query)
        except GatewayRefused as exc:
            if exc.code == "unknown_target":
                op.known_target(target)
            raise
        found += page["jobs"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    return found


def _each(
    op: Operator, target: str, chosen: list[str], do: Callable[[list[str]], list[str]], did: str, *, dry_run: bool
) -> int:
    """Do it to the dead letters, some at a time; return the exit status: 1 if one was no dead letter."""
    done: list[str] = []
    try:
        with op.out.progress() as bars:
            bar = bars.add_task(f"dead letters of {target}", total=len(chosen))
            for first in range(0, len(chosen), _AT_ONCE):
                done += do(chosen[first : first + _AT_ONCE])
                bars.update(bar, completed=min(first + _AT_ONCE, len(chosen)))
    except CommandFailed as exc:
        text = f"{exc.message}; {len(done)} of {len(chosen)} were {did} before"
        raise CommandFailed(text, exc.exit_code) from exc
    missing = [job_id for job_id in chosen if job_id not in set(done)]
    if op.out.as_json:
        op.out.document({"matched": len(done), "job_ids": done, "not_found": missing, "dry_run": dry_run})
    else:
        op.out.line(f"{counted(len(done), 'dead letter')} {'would be ' if dry_run else ''}{did}")
        for job_id in missing:
            op.out.note(f"{job_id} is no dead letter of {target}")
    return FAILED if missing else 0
