"""The idle time of a machine's cores, on this machine's own system."""

import sys
import time
from pathlib import Path

import pytest

from toril.proxy.busy_time import idle_s


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say")
def test_cores_are_idle_for_no_longer_than_the_machine_has_run() -> None:
    before = idle_s()
    assert 0 < before < time.clock_gettime(time.CLOCK_BOOTTIME) + 1
    assert before <= idle_s()


def test_idle_time_is_the_mean_of_the_cores_with_what_gives_way_and_waits_for_disks(tmp_path: Path) -> None:
    kept = tmp_path / "stat"
    kept.write_bytes(b"cpu  9000 100 500 2000 300 7 8 0 0 0\ncpu0 1 0 0 0 0\ncpu1 1 0 0 0 0\nintr 5 0\nctxt 5\n")
    assert idle_s(kept) == (100 + 2000 + 300) / 100 / 2


@pytest.mark.parametrize("content", [None, b"", b"cpu\n", b"cpu  1 2 3 4 5\n"])
def test_where_the_system_does_not_say_cores_are_idle_all_the_time(tmp_path: Path, content: bytes | None) -> None:
    kept = tmp_path / "stat"
    if content is not None:
        kept.write_bytes(content)
    before_s, told_s, after_s = time.monotonic(), idle_s(kept), time.monotonic()
    assert before_s <= told_s <= after_s
