"""The busy time of a thread, on this machine's own system."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.waiting import in_time
from toril.proxy.busy_time import busy_s


def _busy_over(work: Callable[[], None]) -> float:
    before = busy_s()
    work()
    return busy_s() - before


def _burn(for_s: float) -> None:
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        pass


def test_a_thread_that_works_is_busy() -> None:
    assert _busy_over(lambda: _burn(0.5)) > 0.4


def test_a_thread_that_sleeps_is_not_busy() -> None:
    in_time(0.25, lambda: _busy_over(lambda: time.sleep(0.5)))


def test_busy_time_is_that_of_the_calling_thread() -> None:
    def let_another_one_burn() -> None:
        other = threading.Thread(target=_burn, args=(0.5,))
        other.start()
        other.join()

    in_time(0.4, lambda: _busy_over(let_another_one_burn))


@pytest.mark.parametrize("content", [None, b"", b"0 0\n"])
def test_without_scheduler_statistics_busy_time_is_the_threads_cpu_time(tmp_path: Path, content: bytes | None) -> None:
    kept = tmp_path / "schedstat"
    if content is not None:
        kept.write_bytes(content)
    before_s, told_s, after_s = time.thread_time(), busy_s(kept), time.thread_time()
    assert before_s <= told_s <= after_s


def test_time_spent_waiting_for_a_processor_counts_as_busy(tmp_path: Path) -> None:
    kept = tmp_path / "schedstat"
    kept.write_bytes(b"1500000000 2000000000 7\n")
    assert busy_s(kept) == 3.5
