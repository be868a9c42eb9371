"""The fleet's registered workers in Redis: a hash of documents and a stream that announces changes.

Shared with BullMQ Proxy instances (wire/bullmq-proxy.md, "Fleet state in Redis"): hash field = queue, value = the
posted document; one stream entry `worker <queue>` per change, written in the same step as the change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from toril.core.errors import StoreRefused
from toril.core.policy import StorePolicy
from toril.core.ports.shared import Command
from toril.core.ports.work import RegistryState

FOLLOW_S = 3
_BATCH = 1000
_REMEMBERED_S = 600
_REMEMBERED = 10_000
_PUT_BACK_AT_ONCE = 100

# A script is not rolled back, so both first see (XLEN) that the stream is one, before they write anything.
# KEYS[1] hash of documents, KEYS[2] stream, KEYS[3] set of removed workers; ARGV[1] queue, ARGV[2] document, ARGV[3]
# stream length. Returns 1.
_PUT = """
redis.call('XLEN', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], '*', 'worker', ARGV[1])
return 1
"""

# That a worker was removed is remembered for a while, also where Redis had lost its document: it is not put back then.
# KEYS[1] hash of documents, KEYS[2] stream, KEYS[3] set of paused workers, KEYS[4] set of removed ones; ARGV[1] queue,
# ARGV[2] stream length, ARGV[3] for how long removed ones are known (seconds), ARGV[4] how many of them at most.
# Returns 1, or 0 when there was no such document; then nothing is announced.
_REMOVE = """
redis.call('XLEN', KEYS[2])
if redis.call('SCARD', KEYS[4]) < tonumber(ARGV[4]) then
  redis.call('SADD', KEYS[4], ARGV[1])
  redis.call('EXPIRE', KEYS[4], ARGV[3])
end
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], '*', 'worker', ARGV[1])
return 1
"""

# KEYS[1] to KEYS[3] as above; ARGV[1] queue, ARGV[2] stream length, ARGV[3] SADD or SREM. What is so already is not
# announced again. Returns 1, or 0 when there is no such document; then nothing is written.
_PAUSE = """
redis.call('XLEN', KEYS[2])
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
if redis.call(ARGV[3], KEYS[3], ARGV[1]) == 1 then
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], '*', 'worker', ARGV[1])
end
return 1
"""

# KEYS[1] mark, KEYS[2] hash of documents, KEYS[3] stream; ARGV[1] the mark to set where there is none.
# Returns the mark, how many documents there are, and the newest announcement's id or false.
_STATE = """
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SET', KEYS[1], ARGV[1]) end
local newest = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
return {redis.call('GET', KEYS[1]), redis.call('HLEN', KEYS[2]), newest[1] and newest[1][1] or false}
"""

# KEYS[1] hash of documents, KEYS[2] stream, KEYS[3] set of paused workers, KEYS[4] set of removed ones; ARGV[1] stream
# length, ARGV[2] the id from which on announcements count, then for each worker its queue, its document, and 1 where it
# is paused. Returns the queues whose document was stored.
_PUT_BACK = """
local named = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], ARGV[2], '+')) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'worker' then named[entry[2][i + 1]] = true end
  end
end
local stored = {}
for i = 3, #ARGV, 3 do
  local queue = ARGV[i]
  if not named[queue] and redis.call('SISMEMBER', KEYS[4], queue) == 0
      and redis.call('HSETNX', KEYS[1], queue, ARGV[i + 1]) == 1 then
    if ARGV[i + 2] == '1' then redis.call('SADD', KEYS[3], queue) end
    redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[1], '*', 'worker', queue)
    stored[#stored + 1] = queue
  end
end
return stored
"""


class RedisRegistry:
    """The registry over two clients: one for commands, one that may block while it follows the stream."""

    def __init__(self, command: Command, following: Command, policy: StorePolicy) -> None:
        self._command = command
        self._following = following
        self._hash = policy.worker_hash
        self._stream = policy.worker_stream
        # Ours alone, and in a cluster on the hash's node, as it has the same hash tag.
        self._paused = f"toril:paused:{policy.worker_hash}"
        self._removed = f"toril:removed:{policy.worker_hash}"
        self._mark = f"toril:registry:{policy.worker_hash}"
        self._max_len = policy.worker_stream_max_len

    async def put(self, queue: str, document: bytes) -> None:
        """Store a document and announce it, in one step."""
        keys = (self._hash, self._stream, self._removed)
        await self._command("EVAL", _PUT, 3, *keys, queue, document, self._max_len)

    async def remove(self, queue: str) -> bool:
        """Remove a document and announce it, in one step; False when there was none."""
        keys = (self._hash, self._stream, self._paused, self._removed)
        return bool(await self._command("EVAL", _REMOVE, 4, *keys, queue, self._max_len, _REMEMBERED_S, _REMEMBERED))

    async def pause(self, queue: str, *, paused: bool) -> bool:
        """Pause a worker, or let it go on, and announce it, in one step; False when there is none."""
        keys = (self._hash, self._stream, self._paused)
        how = "SADD" if paused else "SREM"
        return bool(await self._command("EVAL", _PAUSE, 3, *keys, queue, self._max_len, how))

    async def paused(self) -> set[str]:
        """The queues whose worker is paused."""
        members = await self._command("SMEMBERS", self._paused)
        return {name for member in members if (name := _text(member)) is not None}

    async def all(self) -> dict[str, bytes]:
        """Every document whose queue name is text."""
        flat = await self._command("HGETALL", self._hash)
        return {name: document for field, document in _pairs(flat) if (name := _text(field)) is not None}

    async def some(self, queues: Sequence[str]) -> dict[str, bytes]:
        """The documents of these queues, those that exist."""
        if not queues:
            return {}
        documents = await self._command("HMGET", self._hash, *queues)
        return {queue: document for queue, document in zip(queues, documents, strict=True) if document is not None}

    async def position(self) -> str:
        """The id of the newest announcement."""
        newest = await self._command("XREVRANGE", self._stream, "+", "-", "COUNT", 1)
        return newest[0][0].decode() if newest else "0-0"

    async def changed_since(self, position: str) -> tuple[str, list[str], bool]:
        """Wait a few seconds for announcements after `position`; the queues they name, each once."""
        reply = await self._following(
            "XREAD", "COUNT", _BATCH, "BLOCK", FOLLOW_S * 1000, "STREAMS", self._stream, position
        )
        entries = _entries(reply)
        if not entries:
            return position, [], False
        names = [_text(value) for _, flat in entries for field, value in _pairs(flat) if field == b"worker"]
        queues = list(dict.fromkeys(name for name in names if name is not None))
        # A full stream may have dropped announcements between `position` and the oldest one that it still has.
        return entries[-1][0].decode(), queues, len(entries) >= self._max_len

    async def state(self, seen: str | None) -> RegistryState:
        """What tells this registry from an earlier one; makes its mark where it has none."""
        mark, count, newest = await self._command(
            "EVAL", _STATE, 3, self._mark, self._hash, self._stream, uuid4().hex.encode()
        )
        behind = seen is not None and _place(b"0-0" if newest is None else newest) < _place(seen.encode())
        return RegistryState(mark, count, behind)

    async def put_back(self, documents: Mapping[str, bytes], paused: set[str], seen: str | None) -> list[str]:
        """Store documents that Redis has lost, and announce them, some at a time; the queues whose were stored."""
        keys = (self._hash, self._stream, self._paused, self._removed)
        milliseconds, number = _place((seen or "0-0").encode())
        after = f"{milliseconds}-{number + 1}"
        queues, stored = list(documents), []
        for begin in range(0, len(queues), _PUT_BACK_AT_ONCE):
            some = queues[begin : begin + _PUT_BACK_AT_ONCE]
            workers = [part for queue in some for part in (queue, documents[queue], int(queue in paused))]
            names = await self._command("EVAL", _PUT_BACK, 4, *keys, self._max_len, after, *workers)
            stored += [name.decode() for name in names]
        return stored

    async def check(self) -> None:
        """See that hash and stream can be used.

        Raises:
            StoreRefused: one of the keys holds another type of value.
        """
        for key, wanted in ((self._hash, b"hash"), (self._stream, b"stream")):
            found = await self._command("TYPE", key)
            kind = found.encode() if isinstance(found, str) else found
            if kind not in (wanted, b"none"):
                raise StoreRefused(f"the Redis key {key} is a {kind.decode()}, toril needs a {wanted.decode()} there")


def _entries(reply: Any) -> list[tuple[bytes, list[bytes]]]:
    if not reply:
        return []
    entries: list[tuple[bytes, list[bytes]]] = reply[0][1]
    return entries


def _place(entry: bytes) -> tuple[int, int]:
    """A stream entry's id, to be compared."""
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _text(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None
