"""How fast a search looks through a million jobs, and what callers who add jobs meanwhile feel of it.

    python -m benchmarks.searching --jobs 1000000 --rounds 3

Jobs are made by Lua on an embedded Valkey, so filling takes seconds. A search asks for the next answer until there is
none, as the dashboard does; each answer is one step of progress, and stopping is asking for no more. To reach: 50,000
jobs a second. The last job that is looked at matches, so nothing is skipped.
"""

from __future__ import annotations

import argparse
import http.client
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median, quantiles
from urllib.parse import quote

import msgspec
import redis
from tests.support.sizes import fill, ran_us

from benchmarks.procfs import cpu_s
from benchmarks.servers import TORIL, start_target, start_valkey
from benchmarks.target import Target

QUEUE = "searched"
_BUDGET_MS = 500
_ADDS_A_SECOND = 100


class Page(msgspec.Struct):
    """An answer of a search."""

    jobs: list[msgspec.Raw]
    scanned: int
    total: int
    next_cursor: str | None


class Caller:
    """One connection to the server."""

    def __init__(self, target: Target) -> None:
        self._connection = http.client.HTTPConnection(target.url.removeprefix("http://"), timeout=60)
        self._headers = {"authorization": f"Bearer {target.token}", "content-type": "application/json"}

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Return the body of a 200 answer."""
        self._connection.request(method, path, body, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
        return text


def search(caller: Caller, where: str) -> tuple[int, int, int]:
    """Search to the end; return how many jobs were looked at, how many matched, and how many answers it took."""
    scanned = found = answers = 0
    cursor = ""
    while True:
        path = f"/queues/{QUEUE}/search?where={quote(where)}&budget_ms={_BUDGET_MS}&cursor={cursor}"
        page = msgspec.json.decode(caller.call("GET", path), type=Page)
        scanned, found, answers = scanned + page.scanned, found + len(page.jobs), answers + 1
        if page.next_cursor is None:
            return scanned, found, answers
        cursor = page.next_cursor


def add_beside(target: Target, over: threading.Event, took_ms: list[float]) -> None:
    """Add jobs to another queue at an even pace, and note how long each takes."""
    caller = Caller(target)
    due = time.monotonic()
    while not over.is_set():
        due += 1 / _ADDS_A_SECOND
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.perf_counter()
        caller.call("POST", "/queues/beside/jobs", b'[{"name":"n","data":{}}]')
        took_ms.append((time.perf_counter() - began) * 1000)


def p99_ms(target: Target, work: Callable[[], object]) -> float:
    """Return the 99th percentile of adds while `work` is done."""
    over, took_ms = threading.Event(), list[float]()
    thread = threading.Thread(target=add_beside, args=(target, over, took_ms))
    thread.start()
    try:
        work()
    finally:
        over.set()
        thread.join()
    return quantiles(took_ms, n=100)[98]


def main() -> None:
    """Fill, search, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        url = start_valkey(stack)
        store = redis.Redis.from_url(url)
        fill(store, QUEUE, wait=options.jobs)
        target = start_target(stack, "toril", TORIL, url, "searching")
        caller, where = Caller(target), "data.customer.id = 1 and name = charge"
        alone_ms = p99_ms(target, lambda: time.sleep(5))
        rates, ours_us, stores_us, beside_ms = [], [], [], []
        for _ in range(options.rounds):
            ours_s, valkeys_us, began = cpu_s(target.pid), ran_us(store), time.perf_counter()
            done: list[tuple[int, int, int]] = []
            beside_ms.append(p99_ms(target, lambda done=done: done.append(search(caller, where))))
            took_s = time.perf_counter() - began
            ((scanned, found, answers),) = done
            if (scanned, found) != (options.jobs, 1):
                raise RuntimeError(f"{scanned} jobs were looked at, and {found} found")
            rates.append(scanned / took_s)
            ours_us.append((cpu_s(target.pid) - ours_s) * 1e6 / scanned)
            stores_us.append((ran_us(store) - valkeys_us) / scanned)
            print(f"{scanned:,} jobs in {took_s:.1f} s, {answers} answers: {rates[-1]:,.0f}/s", flush=True)
        print(
            f"search {median(rates):,.0f} jobs/s, CPU a job: toril {median(ours_us):.1f} µs, Valkey "
            f"{median(stores_us):.1f} µs; p99 of an add {median(beside_ms):.1f} ms beside it, {alone_ms:.1f} ms alone"
        )


if __name__ == "__main__":
    main()
