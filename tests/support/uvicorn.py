"""Plain uvicorn with an application, in a separate process, started as users start it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from tests.support.gateway import PLAIN, TOKEN
from tests.support.ports import free_port
from tests.support.waiting import eventually


@contextmanager
def uvicorn(folder: Path, *options: str, ready: str, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run ``python -m uvicorn`` in a folder until it answers ``ready``; its URL. It must end in good order."""
    port = free_port()
    url, log_path = f"http://127.0.0.1:{port}", folder / "uvicorn.log"
    base = {"PATH": os.environ.get("PATH", ""), "AUTH_TOKENS": TOKEN, "PYTHONUNBUFFERED": "1"}
    with log_path.open("wb") as log:
        argv = [sys.executable, "-m", "uvicorn", "--port", str(port), "--timeout-graceful-shutdown", "5", *options]
        process = subprocess.Popen(argv, cwd=folder, env=base | dict(env or {}), stdout=log, stderr=log)

    def answers() -> bool:
        assert process.poll() is None, log_path.read_text()
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return False
        return httpx.get(url + ready, timeout=5, trust_env=False, verify=PLAIN).status_code == 200

    try:
        eventually(answers, timeout_s=30, what=f"uvicorn's {ready}")
        yield url
        process.terminate()
        assert process.wait(20) in {0, -15}, log_path.read_text()
        said = log_path.read_text()
        assert "Traceback" not in said, said
    finally:
        process.kill()
        process.wait()
