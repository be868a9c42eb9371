"""`toril serve --processes`: as many as there are cores unless told, and callers spread over them."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes share one socket")
CALLERS = 64
REQUEST = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
SERVE = ("serve", "--host", "127.0.0.1")


ESTABLISHED, LISTENING = "01", "0A"


def sockets(port: int, state: str) -> set[str]:
    """Return the sockets on this side of a port in a state, as links in /proc name them."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{port:04X}") and line[3] == state}


def served_by(pid: int, port: int) -> int:
    """Return how many connections to a port a process holds."""
    established = sockets(port, ESTABLISHED)
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += os.readlink(descriptor) in established
        except FileNotFoundError:
            continue
    return found


def ask(connection: socket.socket) -> bytes:
    """Send a request and return the beginning of its answer."""
    connection.sendall(REQUEST)
    return connection.recv(1000)


def test_callers_are_spread_over_the_processes(valkey: ValkeyProcess, tmp_path: Path) -> None:
    with TorilProcess(valkey.url, tmp_path / "toril.log", args=("--processes", "2")) as toril, ExitStack() as stack:
        eventually(lambda: toril.log().count('"listening"') == 2, what="both processes listen")
        callers = [stack.enter_context(socket.create_connection(("127.0.0.1", toril.port))) for _ in range(CALLERS)]
        assert all(ask(caller).startswith(b"HTTP/1.1 200") for caller in callers)
        shares = [served_by(child, toril.port) for child in toril.children()]
    assert len(shares) == 2
    assert min(shares) >= CALLERS // 4, shares


def test_all_processes_map_one_file_by_which_they_know_of_each_others_load(
    valkey: ValkeyProcess, tmp_path: Path
) -> None:
    with TorilProcess(valkey.url, tmp_path / "toril.log", args=("--processes", "2")) as toril:
        eventually(lambda: toril.log().count('"listening"') == 2, what="both processes listen")
        maps = [Path(f"/proc/{child}/maps").read_text().splitlines() for child in toril.children()]
        mapped = [{line.split()[-1] for line in lines if line.endswith("/load")} for lines in maps]
    assert len(mapped) == 2
    assert len(mapped[0]) == 1
    assert mapped[0] == mapped[1]


def test_while_one_process_is_gone_callers_go_to_the_other(valkey: ValkeyProcess, tmp_path: Path) -> None:
    with TorilProcess(valkey.url, tmp_path / "toril.log", args=("--processes", "2")) as toril:
        eventually(lambda: toril.log().count('"listening"') == 2, what="both processes listen")
        with one_process_less(toril):
            for _ in range(CALLERS):
                with socket.create_connection(("127.0.0.1", toril.port), timeout=5) as caller:
                    assert ask(caller).startswith(b"HTTP/1.1 200")


@contextmanager
def one_process_less(toril: TorilProcess) -> Iterator[None]:
    """Kill one process, and keep the parent from starting another until the end of the block."""
    victim = toril.children()[0]
    os.kill(toril.pid, signal.SIGSTOP)
    try:
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(sockets(toril.port, LISTENING)) == 1, what="its socket is gone")
        yield
    finally:
        os.kill(toril.pid, signal.SIGCONT)


@pytest.mark.parametrize("second", ["1", "2"])
def test_two_instances_never_share_a_port(valkey: ValkeyProcess, tmp_path: Path, second: str) -> None:
    with TorilProcess(valkey.url, tmp_path / "toril.log", args=("--processes", "2")) as toril:
        command = [sys.executable, "-m", "toril", *SERVE, "--port", str(toril.port), "--processes", second]
        done = subprocess.run(
            command, env=os.environ | {"REDIS_URL": valkey.url}, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, toril.running) == (1, True)
        assert f"cannot listen on 127.0.0.1:{toril.port}" in done.stderr


def test_without_a_number_there_is_a_process_for_each_core_that_redis_leaves(
    valkey: ValkeyProcess, tmp_path: Path
) -> None:
    expected = min(8, max(1, len(os.sched_getaffinity(0)) - 1))
    with TorilProcess(valkey.url, tmp_path / "toril.log", command=SERVE) as toril:
        assert len(toril.children()) == (expected if expected > 1 else 0)
        assert f'"count": {expected}, "chosen": true' in toril.log()


def test_one_core_is_served_by_one_process(valkey: ValkeyProcess, tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    toril = TorilProcess(valkey.url, tmp_path / "toril.log", command=SERVE)
    os.sched_setaffinity(0, {min(cores)})  # which the process inherits
    try:
        toril.start()
        assert toril.children() == []
    finally:
        os.sched_setaffinity(0, cores)
        toril.close()
