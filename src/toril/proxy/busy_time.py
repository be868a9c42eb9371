"""How long this thread has had something to do: it ran, or waited for a processor.

Unlike the time that it ran, that does not fall when other programs want the processors, too.
"""

from __future__ import annotations

import time
from pathlib import Path

_OF_THIS_THREAD = Path("/proc/thread-self/schedstat")


def busy_s(kept: Path = _OF_THIS_THREAD) -> float:
    """Return the seconds since the thread began; on systems other than Linux only those in which it ran."""
    try:
        ran_ns, waited_ns, _ = kept.read_bytes().split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(ran_ns) + int(waited_ns)) / 1e9
