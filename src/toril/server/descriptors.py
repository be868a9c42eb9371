"""The file descriptors that this process may have, and how many of them callers' connections may take.

The rest is a reserve: Redis, the ledger, requests to endpoints and files need descriptors while callers hold theirs.
"""

from __future__ import annotations

import errno
import os
import resource

from msgspec import Struct

_LEAST_RESERVE = 16
_MOST_RESERVE = 4096
# Assumed to be in use at the start where they cannot be counted.
_USUAL = 32
# With fewer connections no caller could be served.
_LEAST_CONNECTIONS = 8


class Descriptors(Struct, frozen=True):
    """The limit of a process, how many it uses before its first caller, and how many are reserved."""

    limit: int
    used: int
    reserved: int

    def connections(self, others: int) -> int:
        """Return how many connections callers may have while this number of descriptors is used otherwise."""
        return max(self.limit - self.reserved - others, _LEAST_CONNECTIONS)


def raise_limit() -> None:
    """Raise the soft limit of this process to its hard one, where that is higher and the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (resource.RLIM_INFINITY, hard):
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return  # a hard limit above what the kernel allows a process: the soft one stays


def count_open(limit: int) -> int | None:
    """Return how many descriptors this process has open.

    Return `limit` if it cannot open another one to count them, None if the system does not tell.
    """
    try:
        return len(os.listdir("/dev/fd")) - 1  # the one that lists them is among them
    except OSError as exc:
        return limit if exc.errno in {errno.EMFILE, errno.ENFILE} else None


def divided(limit: int, used: int) -> Descriptors:
    """Return the limit with its reserve: a quarter, at least 16 and at most 4,096."""
    return Descriptors(limit, used, min(max(limit // 4, _LEAST_RESERVE), _MOST_RESERVE))


def available() -> Descriptors:
    """Return the descriptors of this process. Everything that it needs before its first caller must be open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        limit = 2**31 - 1
    return divided(limit, count_open(limit) or _USUAL)
