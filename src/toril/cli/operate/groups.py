"""`toril groups`: lists and shows groups of jobs, sets their limits, pauses, resumes and drains them.

`toril groups release` works on Redis itself, so that held jobs get out after toril is gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toril.cli.exit_codes import FAILED
from toril.cli.gateway_address import segment
from toril.cli.operate.faults import CommandFailed
from toril.cli.operate.listing_group import ListingGroup
from toril.cli.operate.operator import Operator, confirm, counted, operating, queue_argument
from toril.cli.operate.output import Output
from toril.cli.options import COUNT, WholeNumber, config_option
from toril.core.integers import whole_number
from toril.core.times import duration_text, parse_duration_s

_PAGE = 1000
_MAX_WEIGHT = 1000
_LIMITS = ("concurrency", "limit", "weight", "max_waiting")
_GONE = "none"


class _Limit(click.ParamType[object]):
    """A value as another type reads it, or `none`."""

    def __init__(self, name: str, inner: click.ParamType[Any]) -> None:
        self.name = name
        self._inner = inner

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """Return the value; `none` stays as it is."""
        return value if value == _GONE else self._inner.convert(value, param, ctx)


class _Rate(click.ParamType[dict[str, int]]):
    """So many starts in a duration: `100/1m`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        """Return the rate as the API takes it."""
        if isinstance(value, dict):
            return value
        most, _, text = value.partition("/")
        number = whole_number(most, 1)
        try:
            duration_ms = round(parse_duration_s(text) * 1000)
        except ValueError:
            duration_ms = 0
        if number is None or duration_ms < 1:
            self.fail(f"{value} is not of the form MAX/DURATION, such as 100/1m", param, ctx)
        return {"max": number, "duration": duration_ms}


_WEIGHT = WholeNumber("weight", f"a whole number from 1 to {_MAX_WEIGHT}", least=1, most=_MAX_WEIGHT)
_group = click.argument("group", metavar="GROUP", help="the group")


@click.group("groups", cls=ListingGroup)
def groups() -> None:
    """List and show the groups of a queue, and change their limits."""


@groups.command("ls")
@queue_argument()
@click.option("--match", metavar="GLOB", help="only groups whose ids fit (default '*')")
@click.option("--limit", type=COUNT, metavar="N", help="how many at most (default all)")
@operating
def list_groups(op: Operator, queue: str, match: str | None, limit: int | None) -> None:
    """List the groups that have waiting or active jobs, or limits."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while limit is None or len(found) < limit:
        most = _PAGE if limit is None else min(_PAGE, limit - len(found))
        page = op.api.get(f"/queues/{segment(queue)}/groups", match=match, limit=most, cursor=cursor)
        found += page["groups"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    if not found:
        op.known_queue(queue)
    if op.out.as_json:
        op.out.document({"groups": found})
        return
    rows = [
        (
            one["id"],
            one["waiting"],
            one["active"],
            _number(one["effective"]["concurrency"]),
            _rate(one["effective"]["limit"]) or "",
            one["effective"]["weight"],
            _state(one),
        )
        for one in found
    ]
    columns = ("GROUP", "WAITING", "ACTIVE", "CONCURRENCY", "LIMIT", "WEIGHT", "")
    op.out.table(columns, rows, empty="no group has jobs or limits")


def _number(number: int | None) -> object:
    return "" if number is None else number


def _rate(rate: dict[str, int] | None) -> str | None:
    return None if rate is None else f"{rate['max']} per {duration_text(rate['duration'] / 1000)}"


def _state(group: dict[str, Any]) -> str:
    if group["paused"]:
        return "paused"
    return f"held until {group['held_until']}" if group["held_until"] else ""


@groups.command("show")
@queue_argument()
@_group
@operating
def show_group(op: Operator, queue: str, group: str) -> None:
    """Show a group: its jobs, its limits, and those that hold with the worker's."""
    found = op.api.get(_path(queue, group))
    if not (found["waiting"] or found["active"] or found["paused"] or any(found["limits"].values())):
        op.known_queue(queue)
    _show(op, queue, found)


def _show(op: Operator, queue: str, found: dict[str, Any]) -> None:
    if op.out.as_json:
        op.out.document(found)
        return
    own, holds = found["limits"], found["effective"]
    op.out.facts(
        (
            ("group", found["id"]),
            ("queue", queue),
            ("state", "paused" if found["paused"] else "running"),
            ("waiting", found["waiting"]),
            ("active", found["active"]),
            ("concurrency", _whose(holds["concurrency"], own["concurrency"])),
            ("limit", _whose(_rate(holds["limit"]), own["limit"])),
            ("weight", holds["weight"]),
            ("most waiting", holds["max_waiting"]),
            ("held until", found["held_until"]),
        )
    )


def _whose(shown: object, own: object) -> str | None:
    if shown is None:
        return None
    return str(shown) if own is not None else f"{shown} (of the worker)"


@groups.command("set")
@queue_argument()
@_group
@click.option(
    "--concurrency", type=_Limit("count", COUNT), metavar="N", help="so many of its jobs run at once, or none"
)
@click.option(
    "--limit", type=_Limit("rate", _Rate()), metavar="MAX/DURATION", help="so many start in a duration: 100/1m; or none"
)
@click.option(
    "--weight", type=_Limit("weight", _WEIGHT), metavar="N", help="its share beside others, 1 to 1000; or none"
)
@click.option(
    "--max-waiting", type=_Limit("count", COUNT), metavar="N", help="no more than so many jobs may wait; or none"
)
@operating
def set_limits(op: Operator, queue: str, group: str, **given: object) -> None:
    """Set limits of a group, at once; those that are not named stay, and 'none' removes one."""
    if all(value is None for value in given.values()):
        raise click.UsageError("give at least one of --concurrency, --limit, --weight, --max-waiting")
    _note_unknown(op, queue)
    limits = op.api.get(_path(queue, group))["limits"]
    limits = {name: limits[name] if given[name] is None else given[name] for name in _LIMITS}
    asked = {name: value for name, value in limits.items() if value not in (None, _GONE)}
    _show(op, queue, op.api.send("PUT", _path(queue, group), asked))


@groups.command("reset")
@queue_argument()
@_group
@operating
def reset_group(op: Operator, queue: str, group: str) -> None:
    """Remove the limits and the pause of a group; those of the worker hold."""
    _note_unknown(op, queue)
    op.api.send("DELETE", _path(queue, group))
    _say(op, queue, group, f"{group} of {queue} has no limits now", reset=True)


@groups.command("pause")
@queue_argument()
@_group
@operating
def pause_group(op: Operator, queue: str, group: str) -> None:
    """Pause a group: none of its jobs starts."""
    _note_unknown(op, queue)
    op.api.send("POST", _path(queue, group, "/pause"))
    _say(op, queue, group, f"{group} of {queue} is paused", paused=True)


@groups.command("resume")
@queue_argument()
@_group
@operating
def resume_group(op: Operator, queue: str, group: str) -> None:
    """Resume a paused group."""
    _note_unknown(op, queue)
    op.api.send("POST", _path(queue, group, "/resume"))
    _say(op, queue, group, f"{group} of {queue} goes on", paused=False)


@groups.command("drain")
@queue_argument()
@_group
@click.option("--yes", is_flag=True, help="do not ask")
@operating
def drain_group(op: Operator, queue: str, group: str, *, yes: bool) -> None:
    """Remove the waiting jobs of a group for good."""
    op.known_queue(queue)
    if not yes:
        confirm(f"Remove all waiting jobs of {group} in {queue} for good?")
    removed = op.api.send("POST", _path(queue, group, "/drain"))["removed"]
    _say(op, queue, group, f"{counted(removed, 'job')} removed", removed=removed)


@groups.command("release")
@click.argument("queue", metavar="QUEUE", help="the queue")
@click.option("--dry-run", is_flag=True, help="do nothing, and say how many it would be")
@config_option("YAML file that says where Redis is (default REDIS_URL)")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def release_groups(queue: str, *, dry_run: bool, config: Path | None, as_json: bool) -> int:
    """Move all held jobs of a queue to waiting, where any BullMQ worker takes them: on Redis, with toril gone."""
    from toril.cli.operate.group_release import release  # noqa: PLC0415 - what is over Redis takes longer than the rest

    return release(Output(as_json=as_json), queue, config, dry_run=dry_run)


def _path(queue: str, group: str, below: str = "") -> str:
    return f"/queues/{segment(queue)}/groups/{segment(group)}{below}"


def _note_unknown(op: Operator, queue: str) -> None:
    """Say so where a queue does not exist yet: its groups may have limits before the first job."""
    try:
        op.known_queue(queue)
    except CommandFailed as exc:
        if exc.exit_code != FAILED:
            raise
        op.out.note(exc.message)


def _say(op: Operator, queue: str, group: str, text: str, **done: object) -> None:
    if op.out.as_json:
        op.out.document({"queue": queue, "group": group} | done)
    else:
        op.out.line(text)
