"""References to large bodies in the blob store, and the names of those bodies.

A body that is put twice has the same name both times, so a put whose answer got lost is simply done again. Two bodies
never share a name, so no put can change what another reference means.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from msgspec import Struct

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}\Z")
_DIGITS = 32


class Blob(Struct, frozen=True):
    """One entry of a blob store; `modified_at_s` is the wall clock of its last put."""

    name: str
    size_bytes: int
    modified_at_s: float


class Kept(Protocol):
    """A body in the store, as seen by the holder of a reference."""

    @property
    def name(self) -> str:
        """The name of the body in the store."""

    @property
    def size_bytes(self) -> int:
        """The length of the body."""


class BlobRef(Struct, frozen=True):
    """A reference that stands for a body."""

    name: str
    size_bytes: int


class StreamedBody(Struct, eq=False):
    """A body that is read while it is sent; each call of `open` reads it from the beginning."""

    size_bytes: int
    open: Callable[[], AsyncIterator[bytes]]


def reference(folder: str, job_id: str, part: str, body: bytes) -> BlobRef:
    """Return the reference of a job's body.

    The name is `folder/job_id/part-DIGEST`: as hard to guess as the job's id, and of one job's bodies no two that
    differ are the same.

    Args:
        folder: whose bodies these are, such as `deliveries`.
        job_id: the job's id; must be hard to guess.
        part: which of the job's bodies, such as `request`.
        body: all of it. It is hashed, which takes a while for a large one (50 MB: some 50 ms).

    Raises:
        ValueError: a part of the name has characters that not every store takes.
    """
    for text in (folder, job_id, part):
        if not _PART.match(text):
            raise ValueError(f"{text!r} cannot be part of a blob's name")
    return BlobRef(f"{folder}/{job_id}/{part}-{hashlib.sha256(body).hexdigest()[:_DIGITS]}", len(body))


class Check:
    """A check whether a body, read piece by piece, is the one that was stored under its name."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._digest = hashlib.sha256()
        self._size_bytes = 0

    def update(self, piece: bytes) -> None:
        """Take the next piece."""
        self._digest.update(piece)
        self._size_bytes += len(piece)

    @property
    def passed(self) -> bool:
        """True once the pieces are the whole body."""
        _, _, digits = self._kept.name.rpartition("-")
        return self._size_bytes == self._kept.size_bytes and self._digest.hexdigest()[:_DIGITS] == digits


def fits(kept: Kept, body: bytes) -> bool:
    """Return True if this is the body that was stored."""
    check = Check(kept)
    check.update(body)
    return check.passed


def is_reference(kept: Kept) -> bool:
    """Return True if this can be what `reference` made, and so leads nowhere but into the store."""
    parts = kept.name.split("/")
    return len(parts) == 3 and all(_PART.match(part) for part in parts) and kept.size_bytes >= 0


def owner(name: str) -> str | None:
    """Return the id of the job that a blob belongs to; None for a name that `reference` did not make."""
    parts = name.split("/")
    return parts[1] if len(parts) == 3 and all(parts) else None
