import signal
import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest

from toril.server import processes


@pytest.mark.parametrize(
    ("codes", "status"),
    [((0, 0), 0), ((0, -signal.SIGTERM), 0), ((-signal.SIGINT, 0), 0), ((0, 130), 0), ((0, 1), 1), ((-9, 0), 1)],
)
def test_children_that_were_stopped_in_the_middle_of_their_start_ended_well(
    codes: tuple[int, int], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Any] = [SimpleNamespace(returncode=code, poll=lambda code=code: code) for code in codes]

    def sleep(_: float) -> None:
        parent._stopping = True

    monkeypatch.setattr(processes, "signal", SimpleNamespace(**vars(signal) | {"signal": lambda *_: None}))
    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(Popen=lambda *_, **__: ended.pop(0)))
    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        parent = processes.Processes([], sock, len(codes))
        assert parent.run() == status
