"""The parent of several processes, and a signal that comes while it starts one."""

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from toril.processes import Processes


class _StopsWhileItStarts(Processes):
    """The signal comes when a child is there already, and the parent does not know of it yet."""

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        process = super()._start(number)
        signal.raise_signal(signal.SIGTERM)
        return process


@pytest.mark.timeout(60)
def test_a_child_that_is_being_started_when_the_signal_comes_is_stopped_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "toril"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            assert _StopsWhileItStarts([], sock, 1).run() == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
