"""A real HAProxy in front of toril, as operators run it."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import TOKEN, job
from tests.support.haproxy import haproxy
from tests.support.toril import StartToril
from tests.support.valkey import StartValkey
from tests.support.waiting import eventually

PER_S = 50


class Load:
    """So many requests a second from a few clients that keep their connections, and what was answered."""

    def __init__(self, url: str) -> None:
        self.answers: Counter[str] = Counter()
        self._url = url
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(4)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        every_s = len(self._threads) / PER_S
        due = time.monotonic() + every_s * number / len(self._threads)
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=self._url, headers=headers, timeout=20, trust_env=False) as client:
            while not self._over.wait(max(0.0, due - time.monotonic())):
                due += every_s
                try:
                    answer = str(client.post("/queues/rolling/jobs", json=[job()]).status_code)
                except httpx.TransportError as exc:
                    answer = type(exc).__name__
                with self._lock:
                    self.answers[answer] += 1


@pytest.mark.slow
def test_a_rolling_restart_behind_haproxy_fails_no_request(
    start_valkey: StartValkey, start_toril: StartToril, tmp_path: Path
) -> None:
    """With HAProxy's defaults: a check every 2 s, and three that fail until a server is down. That takes its time."""
    valkey = start_valkey()
    default = {"TORIL_SHUTDOWN_DELAY": None}
    servers = [start_toril(valkey, env=default), start_toril(valkey, env=default, args=["--processes", "2"])]
    check = ["balance roundrobin", "option httpchk GET /ready"]
    ports = [server.port for server in servers]
    with haproxy(tmp_path, *ports, rules=check, options="check") as port, Load(f"http://127.0.0.1:{port}") as load:
        _has(load, lambda: load.answers["200"] > PER_S)
        for server in servers:
            assert server.terminate().code == 0
            server.start()
        already = load.answers["200"]
        _has(load, lambda: load.answers["200"] > already + PER_S)
    assert set(load.answers) == {"200"}, load.answers
    assert valkey.client().llen("bull:rolling:wait") == load.answers["200"]


def _has(load: Load, holds: Callable[[], bool]) -> None:
    eventually(holds, what=f"more answers than {load.answers}")
