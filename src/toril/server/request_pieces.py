"""Cuts the bytes of a connection into pieces that end where a request may end. Pure.

So a head begins where a piece begins, and its bytes can be counted before the parser has them. Nothing but the counting
depends on where a piece ends; framing is the parser's alone.
"""

from __future__ import annotations

_END = b"\r\n\r\n"


class RequestPieces:
    """Finds the ends of pieces: at an empty line, however reads split it, or at the end of a body of known length.

    Attributes:
        body_left: how much of a body of known length has yet to come; 0 outside of such a body.
    """

    __slots__ = ("_tail", "body_left")

    def __init__(self) -> None:
        self.body_left = 0
        # The last bytes of an incomplete piece: an empty line may be split.
        self._tail = b""

    def end(self, data: bytes, at: int) -> int:
        """Return where the piece that begins at `at` ends; the end of `data` where it is incomplete."""
        if self.body_left:
            return min(at + self.body_left, len(data))
        tail = self._tail
        if tail:
            split = (tail + data[at : at + 3]).find(_END)
            if split >= 0:
                self._tail = b""
                return at + split + len(_END) - len(tail)
        found = data.find(_END, at)
        if found >= 0:
            self._tail = b""
            return found + len(_END)
        self._tail = (tail + data[max(at, len(data) - 3) :])[-3:]
        return len(data)
