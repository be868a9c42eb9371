"""The ledger in Redis alone, for `ledger: {url: none}`: no other server, and no other promise than Redis's own.

What is acknowledged is in Redis, and on its disk as far as its `appendfsync` goes. A flushed or lost Redis has lost
the ledger with the queues; nothing is left to recover from. Lists with filters read the rows one by one.

One hash a delivery, with its state (`s`), envelope (`e`), fingerprint (`f`), last response (`r`) and the `seq` of its
last transition (`v`), which a change compares before it writes; two lists for its history; sorted sets to find it by.
All keys share one hash tag, so that a step is one script in a cluster too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import structlog

from toril.adapters.sql_ledger import envelope_needed
from toril.core.delivery import (
    Accepted,
    Attempt,
    Begin,
    Begun,
    Cancel,
    Change,
    Decision,
    Delivery,
    Duplicate,
    End,
    Envelope,
    Expire,
    Lose,
    NewDelivery,
    Refused,
    Replay,
    Stored,
    Written,
    begun,
    decide,
    written,
)
from toril.core.errors import LedgerUnavailable, StoreError, StoreRefused, StoreUnavailable
from toril.core.lifecycle import OPEN, TERMINAL, WAITING, Status, Transition
from toril.core.packed import pack, unpack_envelope, unpack_response
from toril.core.ports.ledger import Depth, Filter, History
from toril.core.ports.shared import Command

log = structlog.get_logger(__name__)

_PAGE = 200
LEDGER_ID = "redis"
_read_delivery = msgspec.msgpack.Decoder(Delivery).decode
_read_step = msgspec.msgpack.Decoder(Transition).decode
_read_attempt = msgspec.msgpack.Decoder(Attempt).decode

_RUN = """
local place = 1 + FIRST
while place <= #ARGV do
  local count = tonumber(ARGV[place])
  redis.call(unpack(ARGV, place + 1, place + count))
  place = place + count + 1
end
"""

# KEYS: the delivery's hash, the key of its idempotency key (or the hash again), then the commands' keys. ARGV: the id,
# "1" if there is such a key, then commands, each behind its number of words. Returns "new", "again" or the id that has
# the key. All keys are named, so that a cluster runs nothing while some of them are on their way to another node.
_ACCEPT = (
    """
if redis.call('EXISTS', KEYS[1]) == 1 then return 'again' end
if ARGV[2] == '1' then
  local there = redis.call('GET', KEYS[2])
  if there then return there end
  redis.call('SET', KEYS[2], ARGV[1])
end
"""
    + _RUN.replace("FIRST", "2")
    + "return 'new'"
)

# KEYS: the delivery's hash, then the commands' keys. ARGV: the seq that it is to have now, then commands as above.
# Returns 1, or 0: it has another.
_CHANGE = "if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return 0 end" + _RUN.replace("FIRST", "1") + "return 1"

# KEYS: hashes. ARGV: fields. Returns what HMGET does, of each.
_LOAD = """
local found = {}
for place, key in ipairs(KEYS) do found[place] = redis.call('HMGET', key, unpack(ARGV)) end
return found
"""

# KEYS: a hash, the lists of its transitions and attempts. Returns state, response, transitions, attempts.
_HISTORY = """
local row = redis.call('HMGET', KEYS[1], 's', 'r')
return {row[1], row[2], redis.call('LRANGE', KEYS[2], 0, -1), redis.call('LRANGE', KEYS[3], 0, -1)}
"""

Word = str | bytes | int | float
Words = Sequence[Word]


class RedisLedger:
    """Keeps the promises of `Ledger`, `LedgerReader` and `LedgerUpkeep` as far as Redis does.

    Args:
        command: sends a command to the server of `root`'s slot.
        prefix: of BullMQ's keys, which ours begin with too.
    """

    def __init__(self, command: Command, prefix: str) -> None:
        self._command = command
        self.root = f"{prefix}:{{toril}}:ledger:"

    async def run(self) -> None:
        """There is nothing to do: the connection is somebody else's."""
        await asyncio.Event().wait()

    async def accept(self, deliveries: Sequence[NewDelivery]) -> list[Accepted | Duplicate | StoreError]:
        """As `Ledger.accept`."""
        results: list[Accepted | Duplicate | StoreError] = []
        for first in range(0, len(deliveries), _PAGE):
            page = deliveries[first : first + _PAGE]
            # In the order in which they are sent, which is theirs.
            results.extend(await _outcomes([self._accept(new) for new in page]))
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

    async def get(self, job_id: str) -> Delivery | None:
        """As `LedgerReader.get`."""
        return (await self.some([job_id])).get(job_id)

    async def some(self, job_ids: Sequence[str]) -> dict[str, Delivery]:
        """As `LedgerReader.some`."""
        rows = await self._load(job_ids, "s")
        read = ((job_id, _standing(job_id, state)) for job_id, (state,) in rows.items())
        return {job_id: delivery for job_id, delivery in read if delivery is not None}

    async def history(self, job_id: str) -> History | None:
        """As `LedgerReader.history`."""
        state, response, steps, attempts = await self._eval(_HISTORY, [self._row(job_id), *self._lists(job_id)])
        delivery = None if state is None else _standing(job_id, state)
        if delivery is None:
            return None
        return History(
            delivery,
            [_read_step(step) for step in steps],
            [_read_attempt(attempt) for attempt in attempts],
            unpack_response(response),
        )

    async def page(self, which: Filter, *, before: str | None, limit: int) -> list[Delivery]:
        """As `LedgerReader.page`."""
        if which.targets is not None and not which.targets:
            return []
        key = self._ids(which.targets[0] if which.targets is not None and len(which.targets) == 1 else None)
        found: list[Delivery] = []
        while len(found) < limit:
            highest = "+" if before is None else f"({before}"
            ids = await self._call("ZREVRANGEBYLEX", key, highest, "-", "LIMIT", 0, _PAGE)
            if not ids:
                break
            job_ids = [job_id.decode() for job_id in ids]
            before = job_ids[-1]
            rows = await self.some(job_ids)
            found.extend(rows[job_id] for job_id in job_ids if job_id in rows and which.matches(rows[job_id]))
        return found[:limit]

    async def depth(self, target: str) -> Depth:
        """As `LedgerReader.depth`."""
        statuses = (Status.QUEUED, Status.DISPATCHING, Status.RETRYING)
        counts = await _all([self._call("ZCARD", self._open(target, status)) for status in statuses])
        oldest = await _all(
            [self._call("ZRANGE", self._open(target, status), 0, 0, "WITHSCORES") for status in statuses]
        )
        return Depth(
            queued=counts[0],
            dispatching=counts[1],
            retrying=counts[2],
            dead_letters=await self._call("ZCARD", self._done(target, Status.DEAD_LETTERED)),
            oldest_s=min((float(first[1]) for first in oldest if first), default=None),
        )

    async def check(self) -> None:
        """As `LedgerReader.check`."""
        await self._call("SET", f"{self.root}check", "1", "PX", 1000)

    async def identity(self) -> str:
        """As `LedgerReader.identity`: it is where the queues are, so all who see the queues have the same."""
        return LEDGER_ID

    async def waiting(self, target: str, *, due_before_s: float, after: str | None, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.waiting`."""
        found: list[Delivery] = []
        while len(found) < limit:
            lowest = "-" if after is None else f"({after}"
            ids = await self._call("ZRANGEBYLEX", self._waiting(target), lowest, "+", "LIMIT", 0, _PAGE)
            if not ids:
                break
            job_ids = [job_id.decode() for job_id in ids]
            after = job_ids[-1]
            rows = await self.some(job_ids)
            found.extend(
                rows[job_id]
                for job_id in job_ids
                if job_id in rows and (rows[job_id].next_attempt_at_s or 0.0) < due_before_s
            )
        return [one for one in found if one.status in WAITING][:limit]

    async def overrun(self, at_s: float, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.overrun`."""
        return await self._up_to(f"{self.root}running", repr(at_s), limit)

    async def expired(self, at_s: float, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.expired`."""
        return await self._up_to(f"{self.root}deadlines", repr(at_s), limit)

    async def finished(self, target: str, status: Status, before_s: float, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.finished`."""
        return await self._up_to(self._done(target, status), f"({before_s!r}", limit)

    async def blobs(self, job_ids: Sequence[str]) -> list[str]:
        """As `LedgerUpkeep.blobs`."""
        names: list[str] = []
        for envelope, response in (await self._load(job_ids, "e", "r")).values():
            contents = [unpack_envelope(envelope).content]
            answer = unpack_response(response)
            if answer is not None:
                contents.append(answer.content)
            names.extend(content.name for content in contents if isinstance(content, Stored))
        return names

    async def forget(self, job_ids: Sequence[str]) -> None:
        """As `LedgerUpkeep.forget`."""
        for one in (await self.some(job_ids)).values():
            if one.status not in TERMINAL:
                continue
            commands: list[Words] = [["DEL", self._row(one.job_id), *self._lists(one.job_id)]]
            if one.idempotency_key is not None:
                commands.append(["DEL", self._key(one.target, one.idempotency_key)])
            commands += [["ZREM", key, one.job_id] for key, _ in self._places(one)]
            commands += [["ZREM", self._ids(target), one.job_id] for target in (None, one.target)]
            await self._eval(_CHANGE, [self._row(one.job_id), *_keys_of(commands)], str(one.seq), *_flat(commands))

    async def targets(self) -> list[str]:
        """As `LedgerUpkeep.targets`."""
        names = [name.decode() for name in await self._call("SMEMBERS", f"{self.root}targets")]
        counts = await _all([self._call("ZCARD", self._ids(name)) for name in names])
        return sorted(name for name, count in zip(names, counts, strict=True) if count)

    async def _accept(self, new: NewDelivery) -> Accepted | Duplicate:
        delivery, first = new.first()
        row = self._row(new.job_id)
        key = None if new.idempotency_key is None else self._key(new.target, new.idempotency_key)
        fields: Words = ["s", pack(delivery), "v", delivery.seq, "e", pack(new.envelope), "f", new.fingerprint]
        commands: list[Words] = [
            ["HSET", row, *fields],
            ["RPUSH", self._lists(new.job_id)[0], pack(first)],
            ["SADD", f"{self.root}targets", new.target],
            *(_words("ZADD", self._ids(target), 0, new.job_id) for target in (None, new.target)),
            *(_words("ZADD", place, repr(score), new.job_id) for place, score in self._places(delivery)),
        ]
        while True:
            arguments = (new.job_id, "0" if key is None else "1", *_flat(commands))
            there = (await self._eval(_ACCEPT, [row, key or row, *_keys_of(commands)], *arguments)).decode()
            if there == "new":
                return Accepted(delivery)
            job_id = new.job_id if there == "again" else there
            found = (await self._load([job_id], "s", "f")).get(job_id)
            if found is not None:
                standing = _standing(job_id, found[0])
                if standing is None:
                    raise StoreRefused(f"the ledger's row of {job_id} cannot be read")
                return Accepted(standing) if there == "again" else Duplicate(standing, found[1])

    async def _write(self, change: Change) -> tuple[Decision | Written | Refused, Envelope | None]:
        job_id = change.job_id
        row = self._row(job_id)
        while True:
            found = (await self._load([job_id], "s", "e")).get(job_id)
            if found is None:
                return Refused(None), None
            now = _standing(job_id, found[0])
            if now is None:
                return Refused(None), None
            decided = decide(change, now)
            if isinstance(decided, Decision):
                commands = self._commands(now, decided)
                if not await self._eval(_CHANGE, [row, *_keys_of(commands)], str(now.seq), *_flat(commands)):
                    continue  # somebody else was first: decide anew
            return decided, unpack_envelope(found[1]) if envelope_needed(change, decided) else None

    def _commands(self, now: Delivery, decided: Decision) -> list[Words]:
        after = decided.delivery
        steps, attempts = self._lists(now.job_id)
        fields: list[Word] = ["s", pack(after), "v", after.seq]
        if decided.response is not None:
            fields += ["r", pack(decided.response)]
        places = dict(self._places(after))
        return [
            ["HSET", self._row(now.job_id), *fields],
            ["RPUSH", steps, *(pack(step) for step in decided.transitions)],
            *(_attempt_words(attempts, one, now) for one in decided.attempts),
            *(_words("ZREM", place, now.job_id) for place, _ in self._places(now) if place not in places),
            *(_words("ZADD", place, repr(score), now.job_id) for place, score in places.items()),
        ]

    def _places(self, one: Delivery) -> Iterator[tuple[str, float]]:
        """The sorted sets that a delivery in this state is in, and its scores."""
        if one.status in OPEN:
            yield self._open(one.target, one.status), one.created_at_s
        if one.status in WAITING:
            yield self._waiting(one.target), 0
            if one.deadline_s is not None:
                yield f"{self.root}deadlines", one.deadline_s
        if one.status is Status.DISPATCHING and one.lease_until_s is not None:
            yield f"{self.root}running", one.lease_until_s
        if one.finished_at_s is not None:
            yield self._done(one.target, one.status), one.finished_at_s

    def _row(self, job_id: str) -> str:
        return f"{self.root}d:{job_id}"

    def _lists(self, job_id: str) -> tuple[str, str]:
        return f"{self.root}t:{job_id}", f"{self.root}a:{job_id}"

    def _key(self, target: str, key: str) -> str:
        return f"{self.root}k:{len(target)}:{target}:{key}"

    def _ids(self, target: str | None) -> str:
        return f"{self.root}ids" if target is None else f"{self.root}ids:{target}"

    def _open(self, target: str, status: Status) -> str:
        return f"{self.root}open:{status}:{target}"

    def _waiting(self, target: str) -> str:
        return f"{self.root}waiting:{target}"

    def _done(self, target: str, status: Status) -> str:
        return f"{self.root}done:{status}:{target}"

    async def _up_to(self, key: str, highest: str, limit: int) -> list[Delivery]:
        ids = await self._call("ZRANGEBYSCORE", key, "-inf", highest, "LIMIT", 0, limit)
        job_ids = [job_id.decode() for job_id in ids]
        rows = await self.some(job_ids)
        return [rows[job_id] for job_id in job_ids if job_id in rows]

    async def _load(self, job_ids: Sequence[str], *fields: str) -> dict[str, list[Any]]:
        """Fields of those deliveries that are there."""
        found: dict[str, list[Any]] = {}
        for first in range(0, len(job_ids), _PAGE):
            page = job_ids[first : first + _PAGE]
            rows = await self._eval(_LOAD, [self._row(job_id) for job_id in page], *fields)
            found |= {job_id: row for job_id, row in zip(page, rows, strict=True) if row[0] is not None}
        return found

    async def _eval(self, script: str, keys: Sequence[str], *arguments: str | bytes | int | float) -> Any:
        return await self._call("EVAL", script, len(keys), *keys, *arguments)

    async def _call(self, *words: str | bytes | int | float) -> Any:
        with _translated():
            return await self._command(*words)


def _standing(job_id: str, state: bytes) -> Delivery | None:
    """Return a delivery as it is kept; None where somebody else has written what is none."""
    try:
        delivery = _read_delivery(state)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        log.error("ledger.row_unreadable", job_id=job_id, error=str(exc))
        return None
    if delivery.job_id == job_id:
        return delivery
    log.error("ledger.row_unreadable", job_id=job_id, error="it is another delivery's")
    return None


def _attempt_words(key: str, one: Attempt, now: Delivery) -> Words:
    """The command that records an attempt at its place: the first one is 0."""
    recorded = now.attempts_begun - (now.status is Status.DISPATCHING)
    return ["LSET", key, one.number - 1, pack(one)] if one.number <= recorded else ["RPUSH", key, pack(one)]


def _words(*words: Word) -> Words:
    return words


def _keys_of(commands: Sequence[Words]) -> list[str]:
    """The keys of commands, each once: of DEL what follows it, of all others the next word."""
    named = (command[1:] if command[0] == "DEL" else command[1:2] for command in commands)
    return list(dict.fromkeys(str(key) for keys in named for key in keys))


def _flat(commands: Sequence[Words]) -> Words:
    return [word for command in commands for word in (len(command), *command)]


async def _all(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The results of calls that leave together, in their order; the first failure of them is raised."""
    results = await _outcomes(calls)
    for result in results:
        if isinstance(result, StoreError):
            raise result
    return results


async def _outcomes(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The same with each failure in its place."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(_outcome(call)) for call in calls]
    return [task.result() for task in running]


async def _outcome(call: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await call
    except StoreError as exc:
        return exc


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as exc:
        raise LedgerUnavailable(exc.message) from exc
