"""What a command prints: tables and colours for people, JSON for scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from toril.cli.terminal import printable

_WIDE = 100_000
_STYLES = {
    "completed": "green",
    "delivered": "green",
    "running": "green",
    "closed": "green",
    "ok": "green",
    "active": "cyan",
    "dispatching": "cyan",
    "delayed": "yellow",
    "retried": "yellow",
    "paused": "yellow",
    "half_open": "yellow",
    "warn": "yellow",
    "stalled": "red",
    "failed": "red",
    "invalid": "red",
    "open": "red",
    "dead_lettered": "red",
    "fail": "red",
}


class Output:
    """Prints to standard output; notes and progress bars go to standard error.

    Args:
        as_json: print JSON, one document a line.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        # A file gets whole lines, however long.
        self._console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, soft_wrap=False)
        self._notes = Console(stderr=True, highlight=False)

    def document(self, value: object) -> None:
        """Print a value as one line of JSON."""
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
        sys.stdout.flush()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
        """Print rows below their columns, or what is said where there are none."""
        found = list(rows)
        if not found:
            self._console.print(_text(empty), style="dim")
            return
        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for number, column in enumerate(columns):
            numeric = all(isinstance(row[number], (int, float)) for row in found)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in found:
            table.add_row(*(_text(cell) for cell in row))
        self._console.print(table)

    def facts(self, facts: Iterable[tuple[str, object]]) -> None:
        """Print names with their values, leaving out those without one."""
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in facts:
            if value is not None and value not in ("", [], {}):
                table.add_row(name, _text(value))
        self._console.print(table)

    def line(self, *parts: object) -> None:
        """Print a line at once; the words of states have their colours."""
        text = Text("  ").join(_text(part) for part in parts if part not in (None, ""))
        self._console.print(text, soft_wrap=True)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Print a note for the person who looks on."""
        self._notes.print(_text(text), soft_wrap=True)

    def progress(self) -> Progress:
        """Return a progress bar, which shows itself on a terminal only."""
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._notes,
            transient=True,
            disable=self.as_json or not self._notes.is_terminal,
        )


def _text(value: object) -> Text:
    """Return a value as text that moves no cursor and holds no markup."""
    shown = as_text(value)
    return Text("\n").join(Text(printable(line), style=_STYLES.get(line, "")) for line in shown.split("\n"))


def as_text(value: object) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (dict, list)):
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return str(value)


def moment(ms: Any) -> str:
    """Return a time in milliseconds since the epoch as text, in UTC; empty where there is none."""
    if not isinstance(ms, (int, float)):
        return ""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return str(ms)
