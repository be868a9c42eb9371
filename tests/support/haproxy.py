"""A real HAProxy in front of a server, as one stands there in production."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.ports import free_port
from tests.support.toolchains import path_of
from tests.support.waiting import eventually


@contextmanager
def haproxy(folder: Path, *server_ports: int, rules: Sequence[str] = (), options: str = "") -> Iterator[int]:
    """HAProxy before servers on loopback, with these lines in its backend and these options of each server; the port
    that it listens on.
    """
    program = path_of("haproxy")
    port = free_port()
    lines = [
        "global",
        "  maxconn 100",
        "defaults",
        "  mode http",
        "  timeout connect 5s",
        "  timeout client 30s",
        "  timeout server 30s",
        "  http-reuse always",
        "frontend front",
        f"  bind 127.0.0.1:{port}",
        "  default_backend back",
        "backend back",
        *(f"  {rule}" for rule in rules),
        *(f"  server toril-{number} 127.0.0.1:{each} {options}" for number, each in enumerate(server_ports)),
        "",
    ]
    config = folder / "haproxy.cfg"
    config.write_text("\n".join(lines))
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([program, "-db", "-f", str(config)], stdout=log, stderr=log)
    try:
        eventually(lambda: _listens(process, port), what="HAProxy")
        yield port
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, "HAProxy ended at start"
    listening = Path("/proc/net/tcp").read_text()
    return f"0100007F:{port:04X} 00000000:0000 0A" in listening
