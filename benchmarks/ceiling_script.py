"""The ceilings of bulk and push in Redis: BullMQ's scripts called bare, pipelined over one connection.

No HTTP, no checks, no transaction. `add` sends jobs in batches of 100 in one write, as many batches in flight
as the bulk scenario has requests in flight. `settle` preloads jobs and completes them with as many slots as
the push scenario has, each completion leasing the next job. Prints one line of JSON: jobs, per_s, store_us.

    python -m benchmarks.ceiling_script add --redis redis://127.0.0.1:6379 --queue bench-x --seconds 3
    python -m benchmarks.ceiling_script settle --redis redis://127.0.0.1:6379 --queue bench-x --jobs 20000
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import uvloop

from benchmarks import payload
from benchmarks.redis_pipe import Argument, Pipe, connect, load, pack

ADD_KEYS = ("wait", "paused", "meta", "id", "completed", "delayed", "active", "events", "marker")
_TAKE_KEYS = (
    "wait",
    "active",
    "prioritized",
    "events",
    "stalled",
    "limiter",
    "delayed",
    "paused",
    "meta",
    "pc",
)
_LOCK_MS = 30_000

_encode = msgspec.msgpack.encode


class Answer(msgspec.Struct):
    """What a run prints; `store_us` is Redis' own CPU per job, without the preloading."""

    jobs: int
    per_s: float
    store_us: float


@dataclass(frozen=True)
class Run:
    """Where to measure: `batch` jobs a write, `depth` writes (or settling slots) in flight."""

    redis_url: str
    queue: str
    prefix: str
    batch: int
    depth: int

    @property
    def base(self) -> str:
        return f"{self.prefix}:{self.queue}:"


async def add(run: Run, seconds: float) -> Answer:
    """Adds jobs for the given time."""
    pipe = await connect(run.redis_url)
    batch = _add_batch(run, await load(pipe, "addStandardJob-9.lua"))
    store_s = await _store_cpu_s(pipe)
    started = time.perf_counter()
    deadline = started + seconds
    jobs = await _pump(pipe, batch, run, lambda _sent: time.perf_counter() < deadline)
    elapsed = time.perf_counter() - started
    store_s = await _store_cpu_s(pipe) - store_s
    pipe.close()
    return Answer(jobs, jobs / elapsed, store_s / jobs * 1e6)


async def settle(run: Run, jobs: int) -> Answer:
    """Preloads this many jobs, then leases and completes them all; only that is measured."""
    pipe = await connect(run.redis_url)
    batch = _add_batch(run, await load(pipe, "addStandardJob-9.lua"))
    jobs = await _pump(pipe, batch, run, lambda sent: sent < jobs)
    take = _take(run, await load(pipe, "moveToActive-11.lua"))
    complete = _complete(run, await load(pipe, "moveToFinished-14.lua"))

    # Replies come in the order of the commands, so the slots' tokens wait in a queue of the same order.
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[None] = loop.create_future()
    tokens = [f"bench:{slot}" for slot in range(run.depth)]
    in_flight = list(tokens)
    completed = 0

    def replies(batch: list[Any]) -> None:
        nonlocal completed
        commands, again = [], []
        for token, reply in zip(in_flight, batch, strict=False):
            if isinstance(reply, list) and reply[0]:
                commands.append(complete(reply[1], token))
                again.append(token)
                completed += 1
        del in_flight[: len(batch)]
        in_flight.extend(again)
        if commands:
            pipe.write(b"".join(commands))
        if not in_flight:
            finished.set_result(None)

    store_s = await _store_cpu_s(pipe)
    pipe.on_replies = replies
    started = time.perf_counter()
    pipe.write(b"".join(take(token) for token in tokens))
    await pipe.wait_for(finished)
    elapsed = time.perf_counter() - started
    pipe.on_replies = None
    store_s = await _store_cpu_s(pipe) - store_s
    pipe.close()
    return Answer(completed, completed / elapsed, store_s / completed * 1e6)


async def _pump(pipe: Pipe, batch: Callable[[], bytes], run: Run, more: Callable[[int], bool]) -> int:
    """Keeps `depth` batches in flight while `more(sent)`; returns how many calls were sent and answered."""
    sent = received = 0
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def replies(answers: list[Any]) -> None:
        nonlocal sent, received
        received += len(answers)
        while sent - received <= run.batch * (run.depth - 1) and more(sent):
            pipe.write(batch())
            sent += run.batch
        if received == sent and not finished.done():
            finished.set_result(None)

    pipe.on_replies = replies
    for _ in range(run.depth):
        pipe.write(batch())
        sent += run.batch
    await pipe.wait_for(finished)
    pipe.on_replies = None
    return received


def _add_batch(run: Run, sha: bytes) -> Callable[[], bytes]:
    """Packs one batch of adds: the arguments of each job anew, the data encoded once."""
    base = run.base
    head: tuple[Argument, ...] = ("EVALSHA", sha, len(ADD_KEYS), *(base + key for key in ADD_KEYS))
    data = msgspec.json.encode(payload.DATA)
    opts = _encode({"attempts": 0})

    def batch() -> bytes:
        now_ms = int(time.time() * 1000)
        # Key prefix, custom id, name, timestamp, parent key, its dependencies key, parent, scheduler key,
        # deduplication key: ARGV[1] of addStandardJob-9.lua.
        return b"".join(
            pack((*head, _encode([base, "", payload.NAME, now_ms, None, None, None, None, None]), data, opts))
            for _ in range(run.batch)
        )

    return batch


def _take(run: Run, sha: bytes) -> Callable[[str], bytes]:
    """Packs a lease of the next job under a token."""
    base = run.base
    keys = (*(base + key for key in _TAKE_KEYS), base + "marker")

    def take(token: str) -> bytes:
        options = _encode({"token": token, "lockDuration": _LOCK_MS, "limiter": None})
        return pack(("EVALSHA", sha, len(keys), *keys, base, int(time.time() * 1000), options))

    return take


def _complete(run: Run, sha: bytes) -> Callable[[bytes, str], bytes]:
    """Packs the completion of a job, which leases the next one under the same token."""
    base = run.base
    keys = (*(base + key for key in _TAKE_KEYS), base + "completed")
    last_keys = (base + "metrics:completed", base + "marker")

    def complete(job_id: bytes, token: str) -> bytes:
        options = _encode(
            {
                "token": token,
                "keepJobs": {"count": -1},
                "limiter": None,
                "lockDuration": _LOCK_MS,
                "attempts": 0,
                "attemptsMade": 1,
                "maxMetricsSize": "",
                "fpof": False,
                "cpof": False,
                "idof": False,
                "rdof": False,
            }
        )
        head: tuple[Argument, ...] = (
            "EVALSHA",
            sha,
            len(keys) + 3,
            *keys,
            base.encode() + job_id,
            *last_keys,
        )
        now_ms = int(time.time() * 1000)
        return pack((*head, job_id, now_ms, "returnvalue", b'{"ok":true}', "completed", "1", base, options))

    return complete


async def _store_cpu_s(pipe: Pipe) -> float:
    lines = (await pipe.call("INFO", "cpu")).decode().splitlines()
    wanted = ("used_cpu_user:", "used_cpu_sys:")
    return sum(float(line.partition(":")[2]) for line in lines if line.startswith(wanted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("add", "settle"))
    parser.add_argument("--redis", required=True, help="redis:// URL, with database number")
    parser.add_argument("--queue", required=True)
    parser.add_argument("--prefix", default="bull")
    parser.add_argument("--seconds", type=float, default=3, help="for add")
    parser.add_argument("--jobs", type=int, default=20_000, help="for settle")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--depth", type=int, help="batches in flight (default 8), or settling slots (100)")
    arguments = parser.parse_args()
    adding = arguments.what == "add"
    depth = arguments.depth or (8 if adding else 100)
    run = Run(arguments.redis, arguments.queue, arguments.prefix, arguments.batch, depth)
    answer = uvloop.run(add(run, arguments.seconds) if adding else settle(run, arguments.jobs))
    print(msgspec.json.encode(answer).decode())


if __name__ == "__main__":
    main()
