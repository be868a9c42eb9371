"""The memory of toril and of Redis over time, while jobs are added and pushed at an even rate."""

from __future__ import annotations

from contextlib import ExitStack

import msgspec
import redis

from benchmarks import payload
from benchmarks.endpoint import Endpoint
from benchmarks.growing import TOKEN, Options, Steps, add, load
from benchmarks.procfs import cpu_s, pss_kb
from benchmarks.servers import TORIL, start_target, start_valkey

_QUEUE = "memory"
_PER_S = 5_000
_A_REQUEST = 10
_CONCURRENCY = 100
_MINUTE_S = 60.0


def memory(options: Options, minute_s: float = _MINUTE_S) -> Steps:
    """Add 5,000 jobs a second, which an endpoint completes and Redis then forgets; look at both once a minute.

    Each line is printed when its minute is over: a run may take hours, and what it has seen by then counts.
    """
    found: Steps = {}
    with ExitStack() as stack:
        store = start_valkey(stack)
        client = redis.Redis.from_url(store, socket_timeout=30)
        stack.callback(client.close)
        redis_pid = int(client.info("server")["process_id"])
        endpoint = Endpoint()
        stack.callback(endpoint.stop)
        toril = start_target(stack, "toril", TORIL, store, TOKEN)
        with toril.wire() as wire:
            wire.register(_QUEUE, endpoint.url(_QUEUE), _CONCURRENCY)
        jobs = msgspec.json.encode([payload.JOB | {"opts": {"removeOnComplete": True}}] * _A_REQUEST)
        pid = toril.pid or 0
        for minute in range(1, options.minutes + 1):
            endpoint.reset()
            before_s = cpu_s(pid)
            seen = load(toril, [add(_QUEUE, jobs)], 32, _PER_S / _A_REQUEST, minute_s)
            step = f"minute {minute}"
            found[step] = {
                "MB of toril": pss_kb(pid) / 1e3,
                "MB of Redis": pss_kb(redis_pid) / 1e3,
                "jobs/s added": seen.answered * _A_REQUEST / seen.seconds,
                "jobs/s pushed": endpoint.stats().count / seen.seconds,
                "waiting": float(client.llen(f"bull:{_QUEUE}:wait")),
                "% of a core": (cpu_s(pid) - before_s) / seen.seconds * 100,
            }
            print(f"  … {step}: {', '.join(f'{value:,.1f} {what}' for what, value in found[step].items())}", flush=True)
    return found
