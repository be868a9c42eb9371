"""The tests' browser leaves nothing behind."""

import os
from pathlib import Path

from tests.support.browser import browser


def command_lines(text: str) -> list[str]:
    """The command lines of the running processes that have a text in them."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace") if entry.name.isdigit() else ""
        except OSError:  # it has ended meanwhile
            continue
        if text in line and entry.name != str(os.getpid()):
            found.append(line)
    return found


def test_no_process_of_it_is_left() -> None:
    with browser() as one:
        one.tab()
        assert command_lines(one.profile)
    assert command_lines(one.profile) == []
