"""The fleet's registered workers in Redis: a hash of documents and a stream that announces changes.

Shared with BullMQ Proxy instances (wire/bullmq-proxy.md, "Fleet state in Redis"): hash field = queue, value = the
posted document; one stream entry `worker <queue>` per change, written in the same step as the change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from toril.core.errors import StoreRefused
from toril.core.ports import Command
from toril.queues.ports import RegistryState
from toril.redis.links import Links
from toril.redis.policy import StorePolicy
from toril.redis.resp import Argument
from toril.redis.script import Script

FOLLOW_S = 3
_BATCH = 1000
_REMEMBERED_S = 600
_REMEMBERED = 10_000
_PUT_BACK_AT_ONCE = 100

# A script is not rolled back, so those that write first see (XLEN) that the stream is one, before they write anything.
_PUT = Script(
    "putWorker",
    """
redis.call('XLEN', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], '*', 'worker', ARGV[1])
return 1
""",
    keys="documents stream removed",
    arguments="queue document stream_length",
    returns="1",
)

# That a worker was removed is remembered for a while, also where Redis had lost its document: it is not put back then.
_REMOVE = Script(
    "removeWorker",
    """
redis.call('XLEN', KEYS[2])
if redis.call('SCARD', KEYS[4]) < tonumber(ARGV[4]) then
  redis.call('SADD', KEYS[4], ARGV[1])
  redis.call('EXPIRE', KEYS[4], ARGV[3])
end
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], '*', 'worker', ARGV[1])
return 1
""",
    keys="documents stream paused removed",
    arguments="queue stream_length remembered_s remembered_most",
    returns="1, or 0 when there was no such document; then nothing is announced",
)

# What is so already is not announced again.
_PAUSE = Script(
    "pauseWorker",
    """
redis.call('XLEN', KEYS[2])
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
if redis.call(ARGV[3], KEYS[3], ARGV[1]) == 1 then
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], '*', 'worker', ARGV[1])
end
return 1
""",
    keys="documents stream paused",
    arguments="queue stream_length sadd_or_srem",
    returns="1, or 0 when there is no such document; then nothing is written",
)

_STATE = Script(
    "registryState",
    """
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SET', KEYS[1], ARGV[1]) end
local newest = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
return {redis.call('GET', KEYS[1]), redis.call('HLEN', KEYS[2]), newest[1] and newest[1][1] or false}
""",
    keys="mark documents stream",
    arguments="new_mark",
    returns="the mark (the new one where there is none), how many documents, the newest announcement's id or false",
)

# For each worker: its queue, its document, and 1 where it is paused. Announcements count from the id `after` on.
_PUT_BACK = Script(
    "putBackWorkers",
    """
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
""",
    keys="documents stream paused removed",
    arguments="stream_length after workers*",
    returns="the queues whose document was stored",
)


class RedisRegistry:
    """The registry. `following` sends a command that may block, while it follows the stream."""

    def __init__(self, links: Links, following: Command, policy: StorePolicy) -> None:
        self._links = links
        self._following = following
        self._hash = policy.worker_hash
        self._stream = policy.worker_stream
        # Ours alone, and in a cluster on the hash's node, as it has the same hash tag.
        self._paused = f"toril:paused:{policy.worker_hash}"
        self._removed = f"toril:removed:{policy.worker_hash}"
        self._mark = f"toril:registry:{policy.worker_hash}"
        self._max_len = policy.worker_stream_max_len

    async def _call(self, *command: Argument) -> Any:
        return await self._links.of(self._hash.encode()).call(*command)

    async def put(self, queue: str, document: bytes) -> None:
        """Store a document and announce it, in one step."""
        keys = (self._hash, self._stream, self._removed)
        await _PUT.call(self._links, keys, queue, document, self._max_len)

    async def remove(self, queue: str) -> bool:
        """Remove a document and announce it, in one step; return False if there was none."""
        keys = (self._hash, self._stream, self._paused, self._removed)
        return bool(await _REMOVE.call(self._links, keys, queue, self._max_len, _REMEMBERED_S, _REMEMBERED))

    async def pause(self, queue: str, *, paused: bool) -> bool:
        """Pause or resume a worker, and announce it, in one step; return False if there is none."""
        keys = (self._hash, self._stream, self._paused)
        how = "SADD" if paused else "SREM"
        return bool(await _PAUSE.call(self._links, keys, queue, self._max_len, how))

    async def paused(self) -> set[str]:
        """Return the queues whose worker is paused."""
        members = await self._call("SMEMBERS", self._paused)
        return {name for member in members if (name := _text(member)) is not None}

    async def all(self) -> dict[str, bytes]:
        """Return all documents whose queue name is text."""
        flat = await self._call("HGETALL", self._hash)
        return {name: document for field, document in _pairs(flat) if (name := _text(field)) is not None}

    async def some(self, queues: Sequence[str]) -> dict[str, bytes]:
        """Return those documents of these queues that exist."""
        if not queues:
            return {}
        documents = await self._call("HMGET", self._hash, *queues)
        return {queue: document for queue, document in zip(queues, documents, strict=True) if document is not None}

    async def position(self) -> str:
        """Return the id of the newest announcement."""
        newest = await self._call("XREVRANGE", self._stream, "+", "-", "COUNT", 1)
        return newest[0][0].decode() if newest else "0-0"

    async def changed_since(self, position: str) -> tuple[str, list[str], bool]:
        """Wait a few seconds for announcements after `position`; return the queues that they name, each once."""
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
        """Return the mark that tells this registry from an earlier one; write one if there is none."""
        mark, count, newest = await _STATE.call(self._links, (self._mark, self._hash, self._stream), uuid4().hex)
        behind = seen is not None and _place(b"0-0" if newest is None else newest) < _place(seen.encode())
        return RegistryState(mark, count, behind)

    async def put_back(self, documents: Mapping[str, bytes], paused: set[str], seen: str | None) -> list[str]:
        """Store documents that Redis has lost, and announce them, some at a time; return their queues."""
        keys = (self._hash, self._stream, self._paused, self._removed)
        milliseconds, number = _place((seen or "0-0").encode())
        after = f"{milliseconds}-{number + 1}"
        queues, stored = list(documents), []
        for begin in range(0, len(queues), _PUT_BACK_AT_ONCE):
            some = queues[begin : begin + _PUT_BACK_AT_ONCE]
            workers = [part for queue in some for part in (queue, documents[queue], int(queue in paused))]
            names = await _PUT_BACK.call(self._links, keys, self._max_len, after, *workers)
            stored += [name.decode() for name in names]
        return stored

    async def check(self) -> None:
        """Check that the hash and the stream can be used.

        Raises:
            StoreRefused: one of the keys holds another type of value.
        """
        for key, wanted in ((self._hash, b"hash"), (self._stream, b"stream")):
            found = await self._call("TYPE", key)
            kind = found.encode() if isinstance(found, str) else found
            if kind not in (wanted, b"none"):
                raise StoreRefused(f"the Redis key {key} is a {kind.decode()}, toril needs a {wanted.decode()} there")


def _entries(reply: Any) -> list[tuple[bytes, list[bytes]]]:
    if not reply:
        return []
    entries: list[tuple[bytes, list[bytes]]] = reply[0][1]
    return entries


def _place(entry: bytes) -> tuple[int, int]:
    """Return a stream entry's id in a form that can be compared."""
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _text(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None
