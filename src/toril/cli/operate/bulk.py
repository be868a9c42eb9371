"""One action on many jobs, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

import click
import msgspec
from msgspec import Struct

from toril.cli.exit_codes import FAILED
from toril.cli.gateway_address import segment
from toril.cli.operate.faults import CommandFailed, GatewayUnreachable
from toril.cli.operate.operator import Command, Operator, counted

_STATES = ("active", "waiting", "prioritized", "paused", "delayed", "waiting-children", "failed", "completed")
_AT_ONCE = 10_000
_TOLD = 20
_DONE = {"retry": "retried", "remove": "removed"}


class JobChoice(Struct, frozen=True):
    """Which jobs: those with these ids, or in these states those that `where` fits."""

    ids: tuple[str, ...]
    states: tuple[str, ...]
    where: str | None
    dry_run: bool

    @property
    def many(self) -> bool:
        """True if the jobs are not named one by one."""
        return not self.ids


def choosing(by_default: str | None) -> Callable[[Command], Command]:
    """Return a decorator that adds the options by which jobs are chosen.

    Args:
        by_default: the state of the jobs unless states are given; None if they must be given or all be meant.
    """

    def decorate(command: Command) -> Command:
        @click.argument("ids", metavar="ID…", nargs=-1, help="the jobs")
        @click.option("--all", "every", is_flag=True, help="all of them")
        @click.option("--where", metavar="CONDITION", help="those that fit, such as 'failedReason ~ timeout'")
        @click.option(
            "--state",
            "states",
            multiple=True,
            type=click.Choice(_STATES),
            help=f"those in this state (default {by_default or 'any'})",
        )
        @click.option("--dry-run", is_flag=True, help="do nothing, and say how many it would be")
        @wraps(command)
        def run(
            *, ids: tuple[str, ...], every: bool, where: str | None, states: tuple[str, ...], dry_run: bool, **more: Any
        ) -> int | None:
            if bool(ids) == (every or where is not None or bool(states)):
                raise click.UsageError("give either ids, or --all, --where or --state")
            if every and where is not None:
                raise click.UsageError("--all and --where exclude each other")
            if not (ids or states) and by_default is not None:
                states = (by_default,)
            return command(choice=JobChoice(ids, states or (() if ids else _STATES), where, dry_run), **more)

        return run

    return decorate


def act(op: Operator, queue: str, action: Literal["retry", "remove"], choice: JobChoice) -> int:
    """Act on the jobs, and say what was done; return the exit status: 1 if a job was refused."""
    known = op.known_queue(queue)
    asked: dict[str, object] = {"action": action, "dry_run": choice.dry_run}
    if choice.ids:
        total: int | None = len(choice.ids)
        batches = [
            asked | {"ids": choice.ids[first : first + _AT_ONCE]} for first in range(0, len(choice.ids), _AT_ONCE)
        ]
    else:
        counts = known.get("counts", {})
        total = sum(int(counts.get(state, 0)) for state in choice.states) if choice.where is None else None
        batches = [asked | {"states": choice.states} | ({} if choice.where is None else {"where": choice.where})]
    sums = {"matched": 0, "done": 0, "refused": 0}
    failed: list[dict[str, Any]] = []
    with op.out.progress() as bars:
        bar = bars.add_task(f"{action} jobs of {queue}", total=total)
        for batch in batches:
            before = dict(sums)
            for counted in _steps(op, queue, batch):
                sums = {name: before[name] + counted[name] for name in sums}
                bars.update(bar, completed=sums["done"] + sums["refused"])
            failed += counted["failed"]
    _say(op, action, choice, sums, failed)
    return FAILED if sums["refused"] else 0


def _steps(op: Operator, queue: str, batch: dict[str, object]) -> Any:
    """Yield the counts so far.

    Raises:
        CommandFailed: the action ended early.
    """
    ended = False
    for event in op.api.stream("POST", f"/queues/{segment(queue)}/bulk", batch):
        if event.name == "error":
            raise CommandFailed(f"the action ended early: {msgspec.json.decode(event.data).get('detail')}")
        if event.name in ("progress", "done"):
            yield msgspec.json.decode(event.data)
        ended = ended or event.name == "done"
    if not ended:
        raise GatewayUnreachable("the gateway ended the action early; run the command again for the rest")


def _say(op: Operator, action: str, choice: JobChoice, sums: dict[str, int], failed: list[dict[str, Any]]) -> None:
    if op.out.as_json:
        op.out.document(sums | {"failed": failed, "dry_run": choice.dry_run})
        return
    would = "would be " if choice.dry_run else ""
    op.out.line(
        f"{counted(sums['done'], 'job')} {would}{_DONE[action]}"
        + (f", {sums['refused']} refused" if sums["refused"] else "")
    )
    for one in failed[:_TOLD]:
        op.out.note(f"{one['id']}: {one['code']}")
    if len(failed) > _TOLD:
        op.out.note(f"and {sums['refused'] - _TOLD} more")
