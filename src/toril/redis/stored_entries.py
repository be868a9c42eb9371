"""Reads entries of lists that were stored in Redis, where another program or version may have written, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
import structlog

T = TypeVar("T")

log = structlog.get_logger(__name__)

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding an entry raises if that is not one."""


def readable(key: str, entries: Iterable[bytes], decode: Callable[[bytes], T]) -> list[T]:
    """Return the entries that can be decoded, in their order; the log says how many of this key cannot."""
    found: list[T] = []
    faults: list[str] = []
    for entry in entries:
        try:
            found.append(decode(entry))
        except UNREADABLE as exc:
            faults.append(str(exc))
    if faults:
        log.warning("redis.entries_unreadable", key=key, entries=len(faults), error=faults[0])
    return found
