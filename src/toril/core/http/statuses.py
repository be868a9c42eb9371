"""Lists of statuses as configurations and workers' documents have them: `[429, "5xx"]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CLASSES = {f"{digit}xx": range(digit * 100, digit * 100 + 100) for digit in (3, 4, 5)}
"""What a word of a list stands for."""


def first_beaten(retry_on: Any, fail_on: Any) -> tuple[int, int | str] | None:
    """Return the first item of `retry_on`, with its place, that has no effect because `fail_on` has all of it.

    An exception, such as 501 of "5xx", is none of these. What is no valid list has no such item.
    """
    if not isinstance(retry_on, Sequence) or not isinstance(fail_on, Sequence):
        return None
    lost = {status for item in fail_on for status in _meant(item)}
    return next(
        ((place, item) for place, item in enumerate(retry_on) if (meant := _meant(item)) and lost.issuperset(meant)),
        None,
    )


def _meant(item: Any) -> Sequence[int]:
    if isinstance(item, str):
        return CLASSES.get(item, ())
    return (item,) if isinstance(item, int) else ()
