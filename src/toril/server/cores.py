"""How many processes a machine has cores for: `toril serve --processes auto`."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from toril.redis.policy import RedisAddress

MOST = 8
"""More are started only where N says so: a Redis is busy with what four of them can add (benchmarks/README.md)."""
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def processes_for(cores: int, redis: RedisAddress | None) -> int:
    """Return one for each core, less one where there is a Redis on this machine; at least 1, and at most `MOST`."""
    return min(MOST, max(1, cores - (redis is not None and is_on_this_machine(redis))))


def is_on_this_machine(redis: RedisAddress) -> bool:
    """Return True for a Unix socket or a loopback address. A name other than `localhost` is not looked up.

    Where Sentinels name the server, theirs count: their master may move to any of their machines.
    """
    return redis.path is not None or any(map(_is_loopback, [host for host, _ in redis.sentinels] or [redis.host]))


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def usable_cores(cgroups: Path = _CGROUPS, own_groups: Path = _OWN_GROUPS) -> int:
    """Return the whole cores that this process may use at once, at least 1.

    That is what its affinity allows, and no more than the CPU limit of its control groups: that of a container.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(affinity, cpu_limit(cgroups, own_groups))))


def cpu_limit(cgroups: Path, own_groups: Path) -> float:
    """Return how many cores the control groups of this process allow; infinite where none has a limit."""
    return min(_limits(cgroups, own_groups), default=float("inf"))


def _limits(cgroups: Path, own_groups: Path) -> Iterator[float]:
    for line in _read(own_groups).splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:  # cgroup v2: one tree for all
            for folder in _upwards(cgroups, group):
                yield from _limit(*_read(folder / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for folder in _upwards(cgroups / "cpu", group):
                yield from _limit(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _upwards(root: Path, group: str) -> Iterator[Path]:
    """Yield a group's folder and those above it, each of which can have a limit.

    In a container the path may be one of the host, of which only the root can be seen.
    """
    parts = [part for part in PurePosixPath(group).parts if part not in {"/", ".."}]
    for length in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:length])


def _limit(quota: str = "", period: str = "") -> Iterator[float]:
    """Yield the cores of a quota in a period, both in microseconds; nothing for `max`, -1 or what cannot be read."""
    if quota.isdecimal() and period.isdecimal() and int(period):
        yield int(quota) / int(period)


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
