"""What Linux says about a process and its children: CPU, memory, sockets."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """The process and all its living descendants; empty when it is gone."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(grandchild for child in children for grandchild in tree(child))]


def cpu_s(pid: int) -> float:
    """Seconds of CPU, user and system, that the tree has used so far, also what has ended in it (/proc/PID/stat)."""
    total = 0
    for member in tree(pid):
        try:
            stat = Path(f"/proc/{member}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since it was listed, and counts with its parent
        # The command name, in parentheses, may hold spaces: count fields from behind it.
        total += sum(map(int, stat.rpartition(")")[2].split()[11:15]))  # utime, stime, and those of ended children
    return total / _TICKS_PER_S


def threads(pid: int) -> int:
    """How many threads the tree has."""
    return sum(len(list(Path(f"/proc/{member}/task").iterdir())) for member in tree(pid))


def pss_kb(pid: int) -> int:
    """Kilobytes of memory the tree really occupies: pages shared with others count by share."""
    total = 0
    for member in tree(pid):
        for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def tcp_ports(pid: int) -> set[int]:
    """Local ports of the tree's TCP sockets, to find its connections in Redis' CLIENT LIST."""
    ports = set()
    for member in tree(pid):
        inodes = _socket_inodes(member)
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{member}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[9] in inodes:
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            link = str(descriptor.readlink())
        except OSError:  # closed between listing and reading
            continue
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    return inodes
