"""Processes of a benchmark are held to a part of a core, or the run says why that is not possible here."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.held_cpu import held
from benchmarks.processes import ProcessError
from benchmarks.procfs import cpu_s

_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_S = 1.0


def test_a_process_gets_no_more_than_its_share_and_all_of_it_afterwards() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            if not os.access(_QUOTA.parent, os.W_OK) or not _QUOTA.exists():
                with pytest.raises(ProcessError, match="cannot be held"), held([busy.pid], 0.1):
                    pass
                return
            with held([busy.pid], 0.1):
                before_s = cpu_s(busy.pid)
                time.sleep(_S)
                assert cpu_s(busy.pid) - before_s < 0.3 * _S
            assert not list(_QUOTA.parent.glob(f"toril-bench-{os.getpid()}-*"))
        finally:
            busy.kill()


def test_what_cannot_be_held_is_named_and_leaves_nothing_behind() -> None:
    with pytest.raises(ProcessError, match="cannot be held"), held([2**30], 0.1):
        pass
    assert not list(_QUOTA.parent.glob(f"toril-bench-{os.getpid()}-*"))
