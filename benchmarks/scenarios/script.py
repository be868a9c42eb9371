"""BullMQ's scripts called bare, as a contender: the ceiling that Redis itself sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from benchmarks.bench import Bench
from benchmarks.ceiling_script import Answer
from benchmarks.measurement import Measurement, Skipped
from benchmarks.processes import module, run_to_end


def script(bench: Bench, what: Literal["add", "settle"], depth: int) -> Callable[[float], Measurement]:
    """A run of `ceiling_script`, with this many batches or slots in flight, on the first target's Redis."""

    def run(seconds: float) -> Measurement:
        if bench.script_redis is None:
            raise Skipped("needs --redis")
        store, queue = bench.stores[bench.script_redis], bench.queue("script")
        amount = ("--seconds", str(seconds)) if what == "add" else ("--jobs", str(bench.push_jobs(seconds)))
        argv = module(
            "ceiling_script",
            what,
            *("--redis", bench.script_redis, "--queue", queue, "--prefix", bench.options.prefix),
            *("--depth", str(depth)),
            *amount,
        )
        try:
            ended = run_to_end(argv, seconds + 60)
        finally:
            store.forget(queue)
        answer = msgspec.json.decode(ended.stdout, type=Answer)
        return Measurement({"per_s": answer.per_s, "store_us": answer.store_us})

    return run
