"""What the options of several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from toril.core.integers import MAX_SAFE_INTEGER, whole_number

FILE = click.Path(path_type=Path, readable=False)
"""A file or folder, which the command itself looks at."""


class WholeNumber(click.ParamType[int]):
    """A whole number in ASCII digits, of at least `least` and at most `most`."""

    def __init__(self, name: str, fault: str, least: int = 0, most: int = MAX_SAFE_INTEGER) -> None:
        self.name = name
        self._fault = fault
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        if isinstance(value, int):
            return value
        number = whole_number(value, self._least, self._most)
        if number is None:
            self.fail(f"{value} is not {self._fault}", param, ctx)
        return number


PORT = WholeNumber("port", "a port", most=65535)
COUNT = WholeNumber("count", "a whole number of at least 1", least=1)


def config_option(
    text: str = "YAML file with settings",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds `--config FILE`."""
    return click.option("--config", type=FILE, metavar="FILE", help=text)
