"""`KeyBook` in Redis: which job an `Idempotency-Key` stands for, for a while."""

from __future__ import annotations

import re

from toril.core.errors import StoreError
from toril.core.ports.proxy import KeyEntry
from toril.core.ports.shared import Command

_SETTLED, _PENDING = "settled", "pending"
_ENTRY = re.compile(rb"([\x21-\x7e]+) ([\x21-\x7e]+) (settled|pending)\Z")


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

    async def claim(self, name: str, job_id: str, digest: str) -> KeyEntry:
        """The entry of this name: the one that is there, or one for this job from now on."""
        key = self._prefix + name
        for _ in range(3):
            made = await self._command("SET", key, f"{job_id} {digest} {_PENDING}", "PX", self._ttl_ms, "NX")
            if made is not None:
                return KeyEntry(job_id, digest, settled=False)
            found: bytes | None = await self._command("GET", key)
            if found is not None:
                entry = _ENTRY.match(found)
                if entry is None:
                    raise StoreError("what an idempotency key stands for cannot be read")
                known, of, state = (part.decode() for part in entry.groups())
                return KeyEntry(known, of, settled=state == _SETTLED)
        raise StoreError("an idempotency key expires again and again")

    async def settle(self, name: str, entry: KeyEntry) -> None:
        """The job of this entry is stored."""
        text = f"{entry.job_id} {entry.digest} {_SETTLED}"
        await self._command("SET", self._prefix + name, text, "PX", self._ttl_ms, "XX")
