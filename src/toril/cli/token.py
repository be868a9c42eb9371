"""`toril token`: makes an API token, and the line for it in the configuration file."""

from __future__ import annotations

import secrets
import sys
from itertools import pairwise

import click

from toril.config.tokens import line
from toril.core.settings.setting import Faults


class _TakesLists(click.Command):
    """A command whose options with `multiple` take several values each."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; `--allow a b` is read as `--allow a --allow b`."""
        lists = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        spread: list[str] = []
        option = ""
        for arg, following in pairwise([*args, "-"]):
            if arg in lists:
                option = arg
                if following.startswith("-"):
                    raise click.BadOptionUsage(arg, f"Option {arg!r} requires an argument.", ctx)
            else:
                option = "" if arg.startswith("-") else option
                spread += (option, arg) if option else (arg,)
        return super().parse_args(ctx, spread)


@click.command("token", cls=_TakesLists)
@click.option("--name", required=True, metavar="NAME", help="the name of its callers in logs and rate limits")
@click.option("--allow", multiple=True, default=("*:read",), metavar="RIGHT", help="its rights (default '*:read')")
@click.option("--queues", multiple=True, default=("*",), metavar="GLOB", help="the queues they hold for (default '*')")
@click.option("--stdin", is_flag=True, help="take the token from standard input instead")
def token_command(name: str, allow: tuple[str, ...], queues: tuple[str, ...], *, stdin: bool) -> int:
    """Make a token and print it with its line."""
    token = sys.stdin.readline().strip() if stdin else "toril_" + secrets.token_urlsafe(32)
    if not (token and token.isascii() and token.isprintable()):
        print("toril: a token holds visible ASCII characters only, at least one", file=sys.stderr)
        return 1
    try:
        entry = line(name, token, allow, queues)
    except Faults as exc:
        for fault in exc.faults:
            print(f"toril: {fault.partition(': ')[2]}", file=sys.stderr)
        return 1
    if not stdin:
        print(f"The token, shown only now:\n\n  {token}\n\nFor the configuration file:\n\ntokens:")
    print(f"  {entry}")
    return 0
