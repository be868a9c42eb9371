"""Holds processes to a part of a core each, so that a machine with few cores has some to spare for the rest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import ProcessError

_GROUPS = Path("/sys/fs/cgroup/cpu")
"""Where version 1 of control groups has the controller `cpu`. A machine with version 2 alone is refused."""
_PERIOD_US = 10_000


@contextmanager
def held(pids: Iterable[int], share: float) -> Iterator[None]:
    """Hold each of these processes to this share of a core during a block; it gets its share every 10 ms.

    Raises:
        ProcessError: this is not root, or the kernel has no such limits there.
    """
    made: list[Path] = []
    try:
        for pid in pids:
            group = _GROUPS / f"toril-bench-{os.getpid()}-{pid}"
            group.mkdir()
            made.append(group)
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(int(share * _PERIOD_US)))
            (group / "cgroup.procs").write_text(str(pid))
        yield
    except OSError as exc:
        raise ProcessError(f"processes cannot be held to a part of a core here: {exc}") from exc
    finally:
        for group in made:
            for pid_text in (group / "cgroup.procs").read_text().split():
                (_GROUPS / "cgroup.procs").write_text(pid_text)
            group.rmdir()
