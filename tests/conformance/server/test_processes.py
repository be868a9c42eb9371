"""The parent of several processes, and a signal that comes while it starts one."""

import signal
import socket
import subprocess
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from toril.server.processes import Child, Processes


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


class _NoRoomForAnother(Processes):
    """The machine starts no more processes."""

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        raise BlockingIOError(11, "Resource temporarily unavailable")


def test_a_child_that_cannot_be_started_is_tried_again_for_as_long_as_it_takes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, capture_logs() as lines:
        processes = _NoRoomForAnother([], sock, 1)
        child, now = Child(0), 0.0
        pauses = []
        for _ in range(2000):
            processes._look_after(child, now)
            pauses.append(child.start_at - now)
            now = child.start_at
    assert child.process is None
    assert pauses[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert pauses[7:] == pytest.approx([10.0] * 1993)
    assert len(lines) == 2000
