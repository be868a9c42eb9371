"""Sets the garbage collector for a process that serves: what is there at the start is left out of every collection.

A request leaves nothing behind that only the collector frees (`tests/conformance/server/test_requests_freed.py`), so it
is run less often than by Python's default, which is once for 700 objects more than before: thirty requests that are
under way at once are as many.
"""

from __future__ import annotations

import gc

_YOUNG = 10_000


def collect_seldom() -> None:
    """Collect once, and from now on seldom, and only what is made after this."""
    gc.collect()
    gc.freeze()
    _, *older = gc.get_threshold()
    gc.set_threshold(_YOUNG, *older)
