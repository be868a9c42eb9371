"""Random bytes from the operating system, fetched in larger pieces: a system call costs more than the rest of an id."""

from __future__ import annotations

import os

_PIECE_BYTES = 4096


class Entropy:
    """A source of random bytes for ids, for one thread. No byte is given out twice, also where a process forks."""

    def __init__(self) -> None:
        self._piece = b""
        self._at = 0
        os.register_at_fork(after_in_child=self._forget)

    def __call__(self, size: int) -> bytes:
        """Return so many random bytes."""
        end = self._at + size
        if end > len(self._piece):
            self._piece, end = os.urandom(max(size, _PIECE_BYTES)), size
        taken = self._piece[end - size : end]
        self._at = end
        return taken

    def _forget(self) -> None:
        self._piece, self._at = b"", 0
