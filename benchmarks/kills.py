"""Kills instances of a fleet again and again while a proof runs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.support.toril import TorilProcess


@contextmanager
def killing(fleet: Sequence[TorilProcess], victims: Sequence[TorilProcess], every_s: float) -> Iterator[Counter[int]]:
    """Kill one of the victims after the other, as long as another one of the fleet runs; each starts again at once.

    Yields how often each was killed.
    """
    kills, over = Counter[int](), threading.Event()
    starting: dict[TorilProcess, threading.Thread] = {}

    def is_up(one: TorilProcess) -> bool:
        return one not in starting or not starting[one].is_alive()

    def run() -> None:
        while not over.wait(every_s):
            up = [number for number, one in enumerate(victims) if is_up(one)]
            if not up or sum(map(is_up, fleet)) < 2:
                continue
            number = min(up, key=kills.__getitem__)
            victims[number].kill()
            kills[number] += 1
            starting[victims[number]] = threading.Thread(target=victims[number].start)
            starting[victims[number]].start()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield kills
    finally:
        over.set()
        thread.join(90)
        for other in starting.values():
            other.join(90)


def told(kills: Counter[int]) -> str:
    """Return how many kills there were, in all and of each instance."""
    return f"{kills.total()} kills ({', '.join(str(kills[number]) for number in sorted(kills))})"
