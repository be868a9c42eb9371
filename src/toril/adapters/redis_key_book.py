"""`KeyBook` in Redis: which job an `Idempotency-Key` stands for, for a while."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from toril.core.errors import StoreError, StoreRefused
from toril.core.ports.proxy import KeyEntry
from toril.core.ports.shared import Command

_SETTLED, _PENDING = "settled", "pending"
_ENTRY = re.compile(rb"([\x21-\x7e]+) ([\x21-\x7e]+) (settled|pending)\Z")

# KEYS[1] the entry. ARGV[1] the new one, ARGV[2] for how many milliseconds, ARGV[3], if given, one that counts as not
# there.
# Returns the entry that is there and how many milliseconds it has left, or nothing where the new one has been written.
_CLAIM = """
local found = redis.call('GET', KEYS[1])
if found and (not ARGV[3] or found ~= ARGV[3]) then return {found, redis.call('PTTL', KEYS[1])} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""
# KEYS[1] the entry. ARGV[1] what it is before, ARGV[2] after, ARGV[3] for how many milliseconds. Returns nothing.
_SETTLE = """
local found = redis.call('GET', KEYS[1])
if not found or found == ARGV[1] or found == ARGV[2] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
"""


class RedisKeyBook:
    """Entries under a prefix.

    Args:
        command: sends one command.
        prefix: of all keys.
        ttl_s: how long an entry is known.
    """

    def __init__(self, command: Command, prefix: str, ttl_s: float) -> None:
        self._command = command
        self._prefix = f"{prefix}:toril:idempotency:"
        self._ttl_ms = round(ttl_s * 1000)

    async def claim(self, name: str, job_id: str, digest: str, instead_of: KeyEntry | None = None) -> KeyEntry:
        """Return the entry of this name: the one that is there, or one for this job from now on."""
        mine = KeyEntry(job_id, digest, settled=False)
        replaced = () if instead_of is None else (_text(instead_of),)
        reply = await self._run(_CLAIM, name, _text(mine), self._ttl_ms, *replaced)
        if reply is None:
            return mine
        entry = _ENTRY.match(reply[0])
        if entry is None:
            raise StoreError("what an idempotency key stands for cannot be read")
        known, of, state = (part.decode() for part in entry.groups())
        age_s = max(0, self._ttl_ms - reply[1]) // 1000
        return KeyEntry(known, of, settled=state == _SETTLED, age_s=age_s)

    async def settle(self, name: str, entry: KeyEntry) -> None:
        """Note that the job of this entry is stored, unless the key stands for another one by now."""
        pending, settled = (_text(KeyEntry(entry.job_id, entry.digest, settled=done)) for done in (False, True))
        await self._run(_SETTLE, name, pending, settled, self._ttl_ms)

    async def _run(self, script: str, name: str, *arguments: str | int) -> Any:
        call = (1, self._prefix + name, *arguments)
        try:
            return await self._command("EVALSHA", _SHA[script], *call)
        except StoreRefused as exc:
            if not exc.message.startswith("NOSCRIPT"):
                raise
            return await self._command("EVAL", script, *call)


_SHA = {script: hashlib.sha1(script.encode()).hexdigest() for script in (_CLAIM, _SETTLE)}  # noqa: S324 - Redis' names


def _text(entry: KeyEntry) -> str:
    return f"{entry.job_id} {entry.digest} {_SETTLED if entry.settled else _PENDING}"
