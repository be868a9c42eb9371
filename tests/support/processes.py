"""Who descends from a process, so that nothing outlives a test: children may have their own sessions."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """The ids of the direct children of a process; none if it is gone."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """The ids of all children, their children, and so on."""
    found: list[int] = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def started_at(pid: int) -> str | None:
    """When a process began, in the kernel's ticks, which tells it from a later one of the same id; None if gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else fields[18]


class Family:
    """The descendants of one process that were ever seen, however they got away from it."""

    def __init__(self) -> None:
        self._seen: dict[int, str] = {}

    def look(self, pid: int) -> None:
        """Take note of who descends from this process now."""
        for child in descendants(pid):
            began = started_at(child)
            if began is not None:
                self._seen[child] = began

    def alive(self) -> list[int]:
        """Those seen before that still run."""
        return [pid for pid, began in self._seen.items() if started_at(pid) == began]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to those that still run."""
        for pid in self.alive():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
