"""Waiting for facts instead of sleeping and hoping. Every test that waits, waits through here."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(probe: Callable[[], T], *, timeout_s: float = 30.0, what: str = "") -> T:
    """Return the first truthy value of ``probe``; fail with what was last seen when the time is up."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.002
    while True:
        seen = probe()
        if seen:
            return seen
        if time.monotonic() > deadline:
            name = what or getattr(probe, "__name__", "the fact")
            raise AssertionError(f"waited {timeout_s:g} s in vain for {name}; last seen: {seen!r}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.05)


def in_time(limit_s: float, measure: Callable[[], float], *, tries: int = 3) -> None:
    """One of a few tries takes no longer than this: other work on the machine may slow down the others."""
    took_s: list[float] = []
    while len(took_s) < tries:
        took_s.append(measure())
        if took_s[-1] <= limit_s:
            return
    raise AssertionError(f"{limit_s:g} s were the limit, and it took {took_s}")
