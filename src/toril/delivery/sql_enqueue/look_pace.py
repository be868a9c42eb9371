"""How often an instance looks for new rows: seldom while it is notified of each, often while many come.

PostgreSQL commits transactions that notify one after the other, each with its own write to the disk. So where rows come
one after the other, an instance looks fifty times a second, and tells callers that they need not notify.
"""

from __future__ import annotations

ATTENTION_S = 2.0
"""For how long callers need not notify; renewed while rows come."""

_LOOK_S = 1.0
_QUICK_S = 0.02
_CLOSE_S = 0.1
_IN_A_ROW = 5
_LINGER_S = 1.0
"""How long to go on looking often, after the last row and after callers notify again."""


class LookPace:
    """Decides the pace of one instance. Times are those of one clock, in seconds."""

    def __init__(self) -> None:
        self._found_at_s = float("-inf")
        self._in_a_row = 0
        self._attentive_until_s = float("-inf")

    def looked(self, now_s: float, *, found: bool) -> bool:
        """Note a look; return True if callers are to be told that they need not notify for `ATTENTION_S`."""
        if found:
            close = now_s - self._found_at_s < _CLOSE_S
            self._in_a_row = self._in_a_row + 1 if close else 1
            self._found_at_s = now_s
        elif now_s - self._found_at_s > _LINGER_S:
            self._in_a_row = 0
        if self._in_a_row < _IN_A_ROW or self._attentive_until_s - now_s > ATTENTION_S / 2:
            return False
        self._attentive_until_s = now_s + ATTENTION_S
        return True

    def pause_s(self, now_s: float) -> float:
        """Return how long to wait for a notification before the next look."""
        return _QUICK_S if now_s < self._attentive_until_s + _LINGER_S else _LOOK_S
