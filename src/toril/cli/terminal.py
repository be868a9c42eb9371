"""What may be printed on a terminal of what others have sent, and in which colour."""

from __future__ import annotations

import os
import sys

GREEN, RED, YELLOW = 32, 31, 33


def printable(text: str) -> str:
    """Return a text without anything that moves the cursor or changes the terminal: that is shown as its escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def coloured(text: str, colour: int) -> str:
    """Return a text in a colour, where standard output is a terminal and `NO_COLOR` is not set."""
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"
