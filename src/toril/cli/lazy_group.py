"""A group of commands that are imported when one of them runs: `toril --help` and a failed spelling import none."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
from msgspec import Struct

from toril.core.suggestions import did_you_mean


class CommandPlace(Struct, frozen=True):
    """The module that has a command, the command's name in it, and what the command does, in a sentence."""

    module: str
    attribute: str
    help: str


class LazyGroup(click.Group):
    """A group whose commands stand in modules of their own.

    Args:
        places: where each command stands, by its name, in the order in which the help lists them.
    """

    def __init__(self, *args: Any, places: Mapping[str, CommandPlace], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; return None if there is none of this name."""
        place = self._places.get(cmd_name)
        if place is None:
            return None
        command: click.Command = getattr(import_module(place.module), place.attribute)
        command.help = place.help
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is meant.

        Raises:
            click.UsageError: there is none, with the name that comes near.
        """
        if args[0] not in self._places and not args[0].startswith("-"):
            ctx.fail(f"no command is called {args[0]!r}{did_you_mean(args[0], self._places)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what each command does, without importing it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in self._places.items()])
