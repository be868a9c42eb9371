"""What every command of operators has: where the gateway is, its API, and how to print."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import click
from click.shell_completion import CompletionItem

from toril.cli.gateway_address import gateway_address, segment
from toril.cli.operate.api import Api
from toril.cli.operate.faults import CommandFailed, GatewayRefused, GatewayUnreachable
from toril.cli.operate.output import Output
from toril.core.suggestions import did_you_mean
from toril.delivery.rules.delivery import target_of

_COMPLETION_S = 1.5
_MOST_NAMES = 1000
Command = Callable[..., int | None]


class Operator:
    """A gateway and a place to print to."""

    def __init__(self, api: Api, out: Output) -> None:
        self.api = api
        self.out = out

    def known_queue(self, queue: str) -> dict[str, Any]:
        """Return what is known of a queue; nothing if the token may not read it, or there is no Redis.

        Raises:
            CommandFailed: there is none of this name; the text has the name that comes near.
        """
        try:
            found: dict[str, Any] = self.api.get(f"/queues/{segment(queue)}")
        except GatewayRefused as exc:
            if exc.status == 403:
                return {}
            if exc.code == "no_redis" and (target := target_of(queue)) is not None:
                self.known_target(target)
                return {}
            if exc.code != "queue_not_found":
                raise
            raise CommandFailed(f"no queue is called {queue!r}{did_you_mean(queue, _near(self.api, queue))}") from exc
        return found

    def known_target(self, target: str) -> dict[str, Any]:
        """Return a target; nothing if the token may not read targets.

        Raises:
            CommandFailed: there is none of this name; the text has the name that comes near.
        """
        try:
            found: dict[str, Any] = self.api.get(f"/targets/{segment(target)}")
        except GatewayRefused as exc:
            if exc.status == 403:
                return {}
            if exc.status != 404:
                raise
            raise CommandFailed(
                f"no target is called {target!r}{did_you_mean(target, target_names(self.api))}"
            ) from exc
        return found


def queue_names(api: Api, match: str | None = None) -> list[str]:
    """Return the names of the queues that the token may see and that match, the first ones by name."""
    return [queue["name"] for queue in api.get("/queues", match=match, limit=_MOST_NAMES)["queues"]]


def _near(api: Api, misspelled: str) -> set[str]:
    """Return names that may have been meant: the first ones, and those that begin or end as the misspelled one does."""
    exact = _exactly(misspelled)
    middle = len(exact) // 2
    patterns = (None, f"{exact[:middle]}*", f"*{exact[middle:]}")
    return {name for pattern in patterns for name in queue_names(api, pattern)}


def _exactly(part: str) -> str:
    """Return a pattern for a part of a name: any character stands for one that has a meaning in patterns."""
    return re.sub(r"[*?\[\]\\]", "?", part)


def _queues_from(api: Api, beginning: str) -> list[str]:
    return queue_names(api, f"{_exactly(beginning)}*")


def _all_targets(api: Api, _beginning: str) -> list[str]:
    return target_names(api)


def target_names(api: Api) -> list[str]:
    """Return the names of the targets that the token may see; none where the delivery door is closed."""
    try:
        return [target["name"] for target in api.get("/targets")["targets"]]
    except GatewayRefused:
        return []


def confirm(text: str) -> None:
    """Ask a person, and go on if the answer is yes.

    Raises:
        click.Abort: it is no.
        click.UsageError: no terminal is there to ask at.
    """
    if not sys.stdin.isatty():
        raise click.UsageError("give --yes where no terminal is there to ask at")
    click.confirm(text, abort=True, err=True)


def counted(number: int, thing: str) -> str:
    """Return a number of things as text."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def operating(command: Command) -> Command:
    """Return a decorated command: it gets an `Operator` instead of `--url`, `--token` and `--json`."""

    @click.option("--url", metavar="URL", help="the toril (default TORIL_URL, else the 'toril dev' of this folder)")
    @click.option("--token", metavar="TOKEN", help="its API token (default TORIL_TOKEN, else that one's)")
    @click.option("--json", "as_json", is_flag=True, help="print JSON, one document a line")
    @wraps(command)
    def run(*, url: str | None, token: str | None, as_json: bool, **options: Any) -> int | None:
        try:
            address = gateway_address(url, token, os.environ)
        except ValueError as exc:
            raise click.UsageError(str(exc)) from exc
        try:
            return command(Operator(Api(address), Output(as_json=as_json)), **options)
        except (KeyError, TypeError) as exc:  # an answer of another shape: the address leads to something else
            raise GatewayUnreachable(f"{address.url} does not answer as a toril does: {exc!r}") from exc

    return run


def _completed(names: Callable[[Api, str], Iterable[str]]) -> Callable[..., list[CompletionItem]]:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            address = gateway_address(ctx.params.get("url"), ctx.params.get("token"), os.environ)
            found = list(names(Api(address, _COMPLETION_S), incomplete))
        except (ValueError, CommandFailed):
            return []
        return [CompletionItem(name) for name in found if name.startswith(incomplete)]

    return complete


def queue_argument(**more: Any) -> Callable[[Command], Command]:
    """Return a decorator that adds the argument QUEUE, which a shell completes."""
    shown = {"metavar": "QUEUE", "help": "the queue"} | more
    return click.argument("queue", shell_complete=_completed(_queues_from), **shown)


def target_argument() -> Callable[[Command], Command]:
    """Return a decorator that adds the argument TARGET, which a shell completes."""
    return click.argument("target", metavar="TARGET", help="the target", shell_complete=_completed(_all_targets))
