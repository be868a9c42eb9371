"""How long this thread has had something to do, and how long the cores of the machine have had nothing to do."""

from __future__ import annotations

import time
from pathlib import Path

_OF_THIS_THREAD = Path("/proc/thread-self/schedstat")
_OF_THIS_MACHINE = Path("/proc/stat")
_TICKS_PER_S = 100.0
"""Of `/proc/stat`, on every architecture that Linux runs Python on (`USER_HZ`)."""
_NICE, _IDLE, _IO = 2, 4, 5


def busy_s(kept: Path = _OF_THIS_THREAD) -> float:
    """Return the seconds since the thread began in which it ran, or waited for a processor.

    Unlike the time that it ran, that does not fall when other programs want the processors, too. On systems other than
    Linux it is only the time in which it ran.
    """
    try:
        ran_ns, waited_ns, _ = kept.read_bytes().split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(ran_ns) + int(waited_ns)) / 1e9


def idle_s(kept: Path = _OF_THIS_MACHINE) -> float:
    """Return the seconds since the machine began in which a core had nothing to do, in the mean of its cores.

    A core that waits for a disk, or runs what gives way to everything else (`nice`), has time. Where the system does
    not say, all cores are idle all the time.
    """
    try:
        lines = kept.read_bytes().splitlines()
        total = lines[0].split()
        cores = sum(line.startswith(b"cpu") for line in lines) - 1
        return (int(total[_NICE]) + int(total[_IDLE]) + int(total[_IO])) / _TICKS_PER_S / cores
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        return time.monotonic()
