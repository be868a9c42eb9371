"""The fleet's registered workers in Redis: a hash of documents and a stream that announces changes.

Shared with BullMQ Proxy instances (wire/bullmq-proxy.md, "Fleet state in Redis"): hash field = queue, value = the
posted document; one stream entry `worker <queue>` per change, written in the same step as the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toril.core.errors import StoreRefused
from toril.core.policy import StorePolicy
from toril.core.ports.shared import Command

FOLLOW_S = 5
_BATCH = 1000

# A script is not rolled back, so both first see (XLEN) that the stream is one, before they write anything.
# KEYS[1] hash of documents, KEYS[2] stream; ARGV[1] queue, ARGV[2] document, ARGV[3] stream length. Returns 1.
_PUT = """
redis.call('XLEN', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], '*', 'worker', ARGV[1])
return 1
"""

# KEYS[1] hash of documents, KEYS[2] stream, KEYS[3] set of paused workers; ARGV[1] queue, ARGV[2] stream length.
# Returns 1, or 0 when there was no such document; then nothing is announced.
_REMOVE = """
redis.call('XLEN', KEYS[2])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], '*', 'worker', ARGV[1])
return 1
"""

# KEYS as above; ARGV[1] queue, ARGV[2] stream length, ARGV[3] SADD or SREM. What is so already is not announced again.
# Returns 1, or 0 when there is no such document; then nothing is written.
_PAUSE = """
redis.call('XLEN', KEYS[2])
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
if redis.call(ARGV[3], KEYS[3], ARGV[1]) == 1 then
  redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[2], '*', 'worker', ARGV[1])
end
return 1
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
        self._max_len = policy.worker_stream_max_len

    async def put(self, queue: str, document: bytes) -> None:
        """Store a document and announce it, in one step."""
        await self._command("EVAL", _PUT, 2, self._hash, self._stream, queue, document, self._max_len)

    async def remove(self, queue: str) -> bool:
        """Remove a document and announce it, in one step; False when there was none."""
        keys = (self._hash, self._stream, self._paused)
        return bool(await self._command("EVAL", _REMOVE, 3, *keys, queue, self._max_len))

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


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _text(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None
