"""A group of commands that lists when it is told nothing else: `toril queues` is `toril queues ls`."""

from __future__ import annotations

import click

from toril.core.suggestions import did_you_mean

_LIST = "ls"


class ListingGroup(click.Group):
    """A group that has a command `ls`."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.no_args_is_help = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, with `ls` before them where no command is named."""
        if _LIST in self.commands and (not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)):
            args = [_LIST, *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is meant.

        Raises:
            click.UsageError: there is none, with the name that comes near.
        """
        if args[0] not in self.commands:
            ctx.fail(f"no command is called {args[0]!r}{did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)
