"""The ledger in Redis alone, for `ledger: {url: none}`: no other server, and no other promise than Redis's own.

What the ledgers in PostgreSQL and SQLite promise, and this one does not:

- A `202` does not mean that the delivery is on a disk. It is in Redis' memory, and on its disk as `appendfsync` has it:
  with `everysec` a crash of the server loses about the last second, without an append-only file all since the last
  snapshot. A failover loses what the replica had not received. `AcknowledgedLedger` waits for disk or replicas.
- Nothing outlives Redis. A Redis that was flushed, or came back empty, has lost deliveries, history and queues
  together; the recoverer has nothing to put back.
- While Redis is away nothing is accepted.
- Redis must not evict: with any `maxmemory-policy` but `noeviction` rows may be gone at any time.
- It has no id (`identity`), so nothing notices a Redis that was replaced by another one.
- Several deliveries are accepted one by one, not in one commit. Counts and lists read over several calls are not of
  one moment, and lists with filters read the rows one after the other.

What it does promise: each change of one delivery is one script. It writes state, history and all places to find it
by, or nothing, and only if the delivery is as it was when the change was decided on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from toril.core.errors import StoreError, StoreRefused
from toril.delivery.ledger.redis_commands import accepting, changing, flat, forgetting, keys_of
from toril.delivery.ledger.redis_reader import PAGE, RedisReader, outcomes, read_delivery
from toril.delivery.rules.changes import (
    Accepted,
    Begin,
    Begun,
    Cancel,
    Change,
    Duplicate,
    End,
    Expire,
    Lose,
    Refused,
    Replay,
    Written,
)
from toril.delivery.rules.decisions import Decision, begun, decide, needs_envelope, written
from toril.delivery.rules.delivery import Envelope, NewDelivery
from toril.delivery.rules.lifecycle import TERMINAL
from toril.delivery.rules.row_codec import unpack_envelope
from toril.redis.script import Script

_RUN = """
local place = 1 + FIRST
while place <= #ARGV do
  local count = tonumber(ARGV[place])
  redis.call(unpack(ARGV, place + 1, place + count))
  place = place + count + 1
end
"""

# All keys are named, so that a cluster runs nothing while some of them are on their way to another node. Commands come
# as `flat` makes them: each behind its number of words.
_ACCEPT = Script(
    "acceptDelivery",
    """
if redis.call('EXISTS', KEYS[1]) == 1 then return 'again' end
if ARGV[2] == '1' then
  local there = redis.call('GET', KEYS[2])
  if there then return there end
  redis.call('SET', KEYS[2], ARGV[1])
end
"""
    + _RUN.replace("FIRST", "2")
    + "return 'new'",
    keys="delivery idempotency_key_or_delivery keys_of_commands*",
    arguments="job_id has_idempotency_key commands*",
    returns="'new', 'again', or the id of the delivery that has the idempotency key",
    names_all=True,
)

# Removes an idempotency key whose delivery Redis has evicted.
_FREE_KEY = Script(
    "freeIdempotencyKey",
    """
if redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('EXISTS', KEYS[2]) == 0 then redis.call('DEL', KEYS[1]) end
""",
    keys="idempotency_key delivery",
    arguments="job_id",
    returns="nothing",
    names_all=True,
)

_CHANGE = Script(
    "changeDelivery",
    "if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return 0 end" + _RUN.replace("FIRST", "1") + "return 1",
    keys="delivery keys_of_commands*",
    arguments="seq commands*",
    returns="1, or 0 where the delivery has another seq by now",
    names_all=True,
)


class RedisLedger(RedisReader):
    """Keeps the promises of `Ledger`, `LedgerReader` and `LedgerUpkeep` as far as Redis does."""

    async def run(self) -> None:
        """Wait until cancelled: the connection is not this ledger's to keep."""
        await asyncio.Event().wait()

    async def accept(self, deliveries: Sequence[NewDelivery]) -> list[Accepted | Duplicate | StoreError]:
        """As `Ledger.accept`."""
        results: list[Accepted | Duplicate | StoreError] = []
        for first in range(0, len(deliveries), PAGE):
            page = deliveries[first : first + PAGE]
            # In the order in which they are sent, which is theirs.
            results.extend(await outcomes([self._accept(new) for new in page]))
        return results

    async def begin(self, change: Begin) -> Begun | Refused:
        """As `Ledger.begin`."""
        return begun(*await self._write(change))

    async def end(self, change: End) -> Written | Refused:
        """As `Ledger.end`."""
        return written((await self._write(change))[0])

    async def cancel(self, change: Cancel) -> Written | Refused:
        """As `Ledger.cancel`."""
        return written((await self._write(change))[0])

    async def replay(self, change: Replay) -> Written | Refused:
        """As `Ledger.replay`."""
        return written((await self._write(change))[0])

    async def expire(self, change: Expire) -> Written | Refused:
        """As `Ledger.expire`."""
        return written((await self._write(change))[0])

    async def lose(self, change: Lose) -> Written | Refused:
        """As `Ledger.lose`."""
        return written((await self._write(change))[0])

    async def check(self) -> None:
        """As `LedgerReader.check`."""
        await self._call("SET", self._keys.check, "1", "PX", 1000)

    async def forget(self, job_ids: Sequence[str]) -> None:
        """As `LedgerUpkeep.forget`, one step for each delivery."""
        for one in (await self.some(job_ids)).values():
            if one.status in TERMINAL:
                commands = forgetting(self._keys, one)
                await self._run(
                    _CHANGE, [self._keys.row(one.job_id), *keys_of(commands)], str(one.seq), *flat(commands)
                )

    async def _accept(self, new: NewDelivery) -> Accepted | Duplicate:
        delivery, first = new.first()
        row = self._keys.row(new.job_id)
        key = None if new.idempotency_key is None else self._keys.idempotency(new.target, new.idempotency_key)
        commands = accepting(self._keys, new, delivery, first)
        while True:
            arguments = (new.job_id, "0" if key is None else "1", *flat(commands))
            there = (await self._run(_ACCEPT, [row, key or row, *keys_of(commands)], *arguments)).decode()
            if there == "new":
                return Accepted(delivery)
            job_id = new.job_id if there == "again" else there
            found = (await self._load([job_id], "s", "f")).get(job_id)
            if found is not None:
                standing = read_delivery(job_id, found[0])
                if standing is None:
                    raise StoreRefused(f"the ledger's row of {job_id} cannot be read")
                return Accepted(standing) if there == "again" else Duplicate(standing, found[1])
            if key is not None:
                await self._run(_FREE_KEY, [key, self._keys.row(job_id)], job_id)

    async def _write(self, change: Change) -> tuple[Decision | Written | Refused, Envelope | None]:
        job_id = change.job_id
        row = self._keys.row(job_id)
        while True:
            found = (await self._load([job_id], "s", "e")).get(job_id)
            now = None if found is None else read_delivery(job_id, found[0])
            if found is None or now is None:
                return Refused(None), None
            decided = decide(change, now)
            if isinstance(decided, Decision):
                commands = changing(self._keys, now, decided)
                if not await self._run(_CHANGE, [row, *keys_of(commands)], str(now.seq), *flat(commands)):
                    continue  # it was changed meanwhile: decide anew
            return decided, unpack_envelope(found[1]) if needs_envelope(change, decided) else None
