"""Queues of a million jobs, made by Lua in seconds, and what a step asks of Redis."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

BLOCKED_US = 10_000
"""No command may take Redis longer."""
_AT_ONCE = 1_000
_TRIES = 5
_STRAY = 0.1
_HOLDS_UP = {"blpop", "brpop", "bzpopmin", "xread", "slowlog", "info", "config"}

_FILL = """
local queue, kind, first, count = 'bull:' .. ARGV[1] .. ':', ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
for i = first, first + count - 1 do
  local time = string.format('%d', 1764000000000 + i)
  redis.call('HSET', queue .. i, 'name', 'charge', 'opts', '{"attempts":3}', 'timestamp', time, 'delay', '0',
    'priority', '0', 'data', '{"customer":{"id":' .. i .. '},"amount":1999,"currency":"EUR"}')
  if kind == 'wait' then
    redis.call('LPUSH', queue .. kind, i)
  elseif kind == 'delayed' then
    redis.call('ZADD', queue .. kind, (1964000000000 + i) * 4096, i)
  else
    redis.call('HSET', queue .. i, 'finishedOn', time, 'failedReason', 'timeout', 'atm', '1')
    redis.call('ZADD', queue .. kind, time, i)
  end
end
"""
_QUEUES = """
for i = tonumber(ARGV[1]), tonumber(ARGV[1]) + tonumber(ARGV[2]) - 1 do
  local queue = string.format('bull:q%05d:', i)
  redis.call('HSET', queue .. 'meta', 'version', 'bullmq:6.0.0', 'opts.maxLenEvents', 10000)
  redis.call('HSET', queue .. '1', 'name', 'n', 'data', '{}', 'opts', '{}', 'timestamp', '1764000000000')
  redis.call('LPUSH', queue .. 'wait', '1')
end
"""


def fill(store: redis.Redis, queue: str, **counts: int) -> None:
    """Make a queue with so many jobs in each state, numbered from 1 on."""
    script = store.register_script(_FILL)
    store.hset(f"bull:{queue}:meta", "version", "bullmq:6.0.0")
    at = 1
    for kind, count in counts.items():
        for first in range(at, at + count, _AT_ONCE):
            script(args=[queue, kind, first, min(_AT_ONCE, at + count - first)])
        at += count


def make_queues(store: redis.Redis, count: int) -> None:
    """Make queues q00000, q00001 and so on, each with a waiting job."""
    script = store.register_script(_QUEUES)
    for first in range(0, count, _AT_ONCE):
        script(args=[first, min(_AT_ONCE, count - first)])


class Asked:
    """What was asked of Redis: how many commands, and which of them took it too long, by name."""

    def __init__(self) -> None:
        self.commands = 0
        self.blocking: list[str] = []


@contextmanager
def watched(store: redis.Redis) -> Iterator[Asked]:
    """Watch what is asked of a Redis that nothing else uses, for the length of a block.

    The server's log of slow commands counts time that passed, also while another program had the processor. So the
    limit is stretched by how much longer all of its work took than its thread ran, and a command counts as blocking
    only where a tenth of those of its name are that slow.
    """
    asked = Asked()
    store.config_set("slowlog-max-len", 10_000)
    store.config_set("slowlog-log-slower-than", BLOCKED_US)
    store.config_resetstat()
    store.slowlog_reset()
    began_us = ran_us(store)
    yield asked
    stretched = max(1.0, store.info("stats")["eventloop_duration_sum"] / (ran_us(store) - began_us))
    entries = store.slowlog_get(10_000)
    slow = [_text(entry["command"]) for entry in entries if entry["duration"] > BLOCKED_US * stretched]
    calls = {name.removeprefix("cmdstat_"): one["calls"] for name, one in store.info("commandstats").items()}
    asked.commands = sum(count for name, count in calls.items() if name not in _HOLDS_UP)
    by_name = Counter(text.split()[0].lower() for text in slow)
    asked.blocking = [
        text for text in slow
        if (name := text.split()[0].lower()) not in _HOLDS_UP and by_name[name] > _STRAY * calls.get(name, 0)
    ]  # fmt: skip


def unblocked(store: redis.Redis, step: Callable[[], Any]) -> Any:
    """Do something that must not block Redis; return its result.

    Where a command was slow, it is done again, at most four times: what blocks Redis does so each time, and what was
    held up by another program does not.
    """
    seen: list[list[str]] = []
    for _ in range(_TRIES):
        with watched(store) as asked:
            result = step()
        if not asked.blocking:
            return result
        seen.append(asked.blocking[:3])
    raise AssertionError(f"Redis was blocked for over {BLOCKED_US / 1000:g} ms each time: {seen}")


def ran_us(store: redis.Redis) -> float:
    """Return how long the server's main thread has had a processor."""
    cpu = store.info("cpu")
    return float(cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"]) * 1e6


def _text(command: bytes | str) -> str:
    return command.decode(errors="replace") if isinstance(command, bytes) else command
