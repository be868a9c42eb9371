"""What is read from a ledger in Redis: `LedgerReader`, and the reads of `LedgerUpkeep`.

One hash per delivery, with its state (`s`), envelope (`e`), fingerprint (`f`), last response (`r`) and the `seq` of its
last transition (`v`); two lists for its history; sorted sets to find it by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import structlog

from toril.core.errors import LedgerUnavailable, StoreError, StoreUnavailable
from toril.delivery.ledger.redis_commands import Word
from toril.delivery.ledger.redis_keys import LedgerKeys
from toril.delivery.ports import DeliveryFilter, DeliveryHistory, TargetDepth
from toril.delivery.rules.delivery import AttemptRecord, Delivery, Envelope, Stored
from toril.delivery.rules.lifecycle import WAITING, Status, Transition
from toril.delivery.rules.row_codec import unpack_envelope, unpack_response
from toril.redis.links import Links
from toril.redis.script import Script
from toril.redis.stored_entries import readable

log = structlog.get_logger(__name__)

PAGE = 200
_LEDGER_ID = "redis"
_decode_delivery = msgspec.msgpack.Decoder(Delivery).decode
_read_step = msgspec.msgpack.Decoder(Transition).decode
_read_attempt = msgspec.msgpack.Decoder(AttemptRecord).decode

_LOAD = Script(
    "loadDeliveries",
    """
local found = {}
for place, key in ipairs(KEYS) do found[place] = redis.call('HMGET', key, unpack(ARGV)) end
return found
""",
    keys="deliveries*",
    arguments="fields*",
    returns="of each delivery what HMGET returns",
    names_all=True,
)

_HISTORY = Script(
    "deliveryHistory",
    """
local row = redis.call('HMGET', KEYS[1], 's', 'r')
return {row[1], row[2], redis.call('LRANGE', KEYS[2], 0, -1), redis.call('LRANGE', KEYS[3], 0, -1)}
""",
    keys="delivery transitions attempts",
    returns="state, response, transitions, attempts",
    names_all=True,
)


class RedisReader:
    """Reads a ledger in Redis.

    Args:
        links: the connections to Redis.
        prefix: of BullMQ's keys; the ledger's begin with it too.
    """

    def __init__(self, links: Links, prefix: str) -> None:
        self._links = links
        self._keys = LedgerKeys(prefix)

    async def get(self, job_id: str) -> Delivery | None:
        """As `LedgerReader.get`."""
        return (await self.some([job_id])).get(job_id)

    async def some(self, job_ids: Sequence[str]) -> dict[str, Delivery]:
        """As `LedgerReader.some`."""
        rows = await self._load(job_ids, "s")
        read = ((job_id, read_delivery(job_id, state)) for job_id, (state,) in rows.items())
        return {job_id: delivery for job_id, delivery in read if delivery is not None}

    async def history(self, job_id: str) -> DeliveryHistory | None:
        """As `LedgerReader.history`."""
        state, response, steps, attempts = await self._run(
            _HISTORY, [self._keys.row(job_id), self._keys.transitions(job_id), self._keys.attempts(job_id)]
        )
        delivery = None if state is None else read_delivery(job_id, state)
        if delivery is None:
            return None
        return DeliveryHistory(
            delivery,
            readable(self._keys.transitions(job_id), steps, _read_step),
            readable(self._keys.attempts(job_id), attempts, _read_attempt),
            unpack_response(response),
        )

    async def envelope(self, job_id: str) -> Envelope | None:
        """As `LedgerReader.envelope`."""
        found = (await self._load([job_id], "e")).get(job_id)
        return None if found is None else unpack_envelope(found[0])

    async def page(self, which: DeliveryFilter, *, before: str | None, limit: int) -> list[Delivery]:
        """As `LedgerReader.page`."""
        if which.targets is not None and not which.targets:
            return []
        key = self._keys.ids(which.targets[0] if which.targets is not None and len(which.targets) == 1 else None)
        found: list[Delivery] = []
        while len(found) < limit:
            highest = "+" if before is None else f"({before}"
            ids = await self._call("ZREVRANGEBYLEX", key, highest, "-", "LIMIT", 0, PAGE)
            if not ids:
                break
            job_ids = [job_id.decode() for job_id in ids]
            before = job_ids[-1]
            rows = await self.some(job_ids)
            found.extend(rows[job_id] for job_id in job_ids if job_id in rows and which.matches(rows[job_id]))
        return found[:limit]

    async def depth(self, target: str) -> TargetDepth:
        """As `LedgerReader.depth`."""
        statuses = (Status.QUEUED, Status.DISPATCHING, Status.RETRYING)
        counts = await _all([self._call("ZCARD", self._keys.open(target, status)) for status in statuses])
        oldest = await _all(
            [self._call("ZRANGE", self._keys.open(target, status), 0, 0, "WITHSCORES") for status in statuses]
        )
        return TargetDepth(
            queued=counts[0],
            dispatching=counts[1],
            retrying=counts[2],
            dead_letters=await self._call("ZCARD", self._keys.finished(target, Status.DEAD_LETTERED)),
            oldest_s=min((float(first[1]) for first in oldest if first), default=None),
        )

    async def identity(self) -> str:
        """As `LedgerReader.identity`. It is the same for every ledger in Redis, as it is where the queues are."""
        return _LEDGER_ID

    async def waiting(self, target: str, *, due_before_s: float, after: str | None, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.waiting`."""
        found: list[Delivery] = []
        while len(found) < limit:
            lowest = "-" if after is None else f"({after}"
            ids = await self._call("ZRANGEBYLEX", self._keys.waiting(target), lowest, "+", "LIMIT", 0, PAGE)
            if not ids:
                break
            job_ids = [job_id.decode() for job_id in ids]
            after = job_ids[-1]
            rows = await self.some(job_ids)
            found.extend(
                one
                for job_id in job_ids
                if (one := rows.get(job_id)) is not None
                and one.status in WAITING  # it may have begun since the ids were read
                and (one.next_attempt_at_s or 0.0) < due_before_s
            )
        return found[:limit]

    async def overrun(self, at_s: float, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.overrun`."""
        return await self._up_to(self._keys.running, repr(at_s), limit)

    async def expired(self, at_s: float, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.expired`."""
        return await self._up_to(self._keys.deadlines, repr(at_s), limit)

    async def finished(self, target: str, status: Status, before_s: float, limit: int) -> list[Delivery]:
        """As `LedgerUpkeep.finished`."""
        return await self._up_to(self._keys.finished(target, status), f"({before_s!r}", limit)

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

    async def targets(self) -> list[str]:
        """As `LedgerUpkeep.targets`."""
        names = [name.decode() for name in await self._call("SMEMBERS", self._keys.targets)]
        counts = await _all([self._call("ZCARD", self._keys.ids(name)) for name in names])
        return sorted(name for name, count in zip(names, counts, strict=True) if count)

    async def _up_to(self, key: str, highest: str, limit: int) -> list[Delivery]:
        ids = await self._call("ZRANGEBYSCORE", key, "-inf", highest, "LIMIT", 0, limit)
        job_ids = [job_id.decode() for job_id in ids]
        rows = await self.some(job_ids)
        return [rows[job_id] for job_id in job_ids if job_id in rows]

    async def _load(self, job_ids: Sequence[str], *fields: str) -> dict[str, list[Any]]:
        """Return these fields of those deliveries that exist, by their ids."""
        found: dict[str, list[Any]] = {}
        for first in range(0, len(job_ids), PAGE):
            page = job_ids[first : first + PAGE]
            rows = await self._run(_LOAD, [self._keys.row(job_id) for job_id in page], *fields)
            found |= {job_id: row for job_id, row in zip(page, rows, strict=True) if row[0] is not None}
        return found

    async def _run(self, script: Script, keys: Sequence[str], *arguments: Word) -> Any:
        with _translated():
            return await script.call(self._links, keys, *arguments)

    async def _call(self, command: str, key: str, *words: Word) -> Any:
        with _translated():
            return await self._links.of(key.encode()).call(command, key, *words)


def read_delivery(job_id: str, state: bytes) -> Delivery | None:
    """Return a delivery as it is kept; None if the value cannot be read as one, or is another one."""
    try:
        delivery = _decode_delivery(state)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        log.error("ledger.row_unreadable", job_id=job_id, error=str(exc))
        return None
    if delivery.job_id == job_id:
        return delivery
    log.error("ledger.row_unreadable", job_id=job_id, error="it is another delivery's")
    return None


async def _all(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Return the results of calls that are sent together, in their order; raise the first failure."""
    results = await outcomes(calls)
    for result in results:
        if isinstance(result, StoreError):
            raise result
    return results


async def outcomes(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Return the results of calls that are sent together, in their order, with each failure in its place."""
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
