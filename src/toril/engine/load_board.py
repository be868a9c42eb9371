"""The load of each process of an instance, in memory that they all map: requests accepted, and who is flooded.

It costs no call to the system: each process writes its own three numbers and reads those of the others. A number that
another process changes meanwhile is read as it was before or after. It must never decide what the numbers mean.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_FILE = "load"
_ACCEPTED, _FLOODED_AT, _NUMBERS = 0, 1, 2
_BYTES = 8


class LoadBoard:
    """What the processes of an instance tell each other of their load.

    Args:
        memory: shared by the processes, `size(processes)` bytes that are 0 at first.
        process: which of them this one is.
        processes: how many there are.
    """

    def __init__(self, memory: bytearray | mmap.mmap, process: int, processes: int) -> None:
        self.processes = processes
        self._numbers = memoryview(memory).cast("d")
        self._own = process * _NUMBERS

    def tell(self, accepted: int) -> None:
        """Add requests that this process has accepted. A process that is started again continues the count."""
        self._numbers[self._own + _ACCEPTED] += accepted

    def tell_flooded(self, now_s: float) -> None:
        """Say that more requests come in at this moment than this process has time for."""
        self._numbers[self._own + _FLOODED_AT] = now_s

    def accepted(self) -> float:
        """Return how many requests all processes have accepted so far."""
        return sum(self._numbers[_ACCEPTED::_NUMBERS])

    def flooded_since(self, before_s: float) -> bool:
        """Return True if any process has been flooded since this moment."""
        return max(self._numbers[_FLOODED_AT::_NUMBERS]) >= before_s


def size(processes: int) -> int:
    """Return how many bytes these processes share."""
    return processes * _NUMBERS * _BYTES


def lay_out(folder: Path, processes: int) -> None:
    """Write the file that the processes map: writing to what is not on the disk yet would end a process where the disk
    is full. Without the file they go on alone.
    """
    with suppress(OSError):
        (folder / _FILE).write_bytes(bytes(size(processes)))


def mapped(folder: str | None, process: int, processes: int) -> LoadBoard | None:
    """Return the board of the processes that share a folder; None for a process that has none, or cannot map it."""
    if folder is None:
        return None
    try:
        with (Path(folder) / _FILE).open("r+b") as file:
            return LoadBoard(mmap.mmap(file.fileno(), size(processes)), process, processes)
    except (OSError, ValueError) as exc:  # ValueError: the file is shorter
        log.warning("load.not_shared", error=str(exc))
        return None
