"""What stands behind an instance's lines in a proxy world: producers, keys, proxied jobs, a cache, events of jobs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, Protocol

from msgspec import UNSET, structs

from tests.simulation.grouped_store import GroupedStore
from tests.simulation.queue_store import WatchedStore
from tests.simulation.wire import Line
from toril.bullmq.rules.event import GAP, Event
from toril.bullmq.rules.flow import FlowJob
from toril.bullmq.rules.job import JobOptions, JobSpec
from toril.core.ports import Now
from toril.proxy.ports import IdempotencyEntry, KeptRequest
from toril.proxy.rules.proxied_job import RESPONSE_FIELD, ProxiedJob, Status


class ProxyStore(WatchedStore):
    """The queue of an upstream, or of callbacks. `finished` has when jobs ended, `parents` what waits for their end."""

    def __init__(self, queue: str, **options: Any) -> None:
        super().__init__(queue, max_stalled_count=1000, **options)
        self.finished: dict[bytes, float] = {}
        self.parents: dict[bytes, bytes] = {}

    def add_once(self, name: str, data: bytes, opts: JobOptions) -> None:
        """Add a job, unless its id is there."""
        job_id = str(opts.jobId)
        if job_id.encode() in self.jobs:
            return
        backoff = {} if opts.backoff is UNSET else {"backoff": structs.asdict(opts.backoff)}  # type: ignore[arg-type]
        group = {} if opts.group is UNSET else {"group": {"id": opts.group.id}}
        attempts = int(opts.attempts or 0)
        self.accept(job_id, attempts, data=data, opts=backoff | group, fields={b"name": name.encode()})

    def remove(self, job_id: bytes) -> bool:
        """Remove a job in any state, with its lock."""
        self.finished.pop(job_id, None)
        return super().remove(job_id)


class GroupedProxyStore(ProxyStore, GroupedStore):
    """The queue of an upstream whose requests have groups."""


class Known(Protocol):
    """The world, as these parts need it."""

    stores: dict[str, Any]

    def now(self) -> float:
        """Return the time of the stores' clock."""

    def added(self, job_id: str) -> None:
        """Hear of an add that was carried out."""

    def cancelled(self, queue: str, job_id: bytes) -> None:
        """Hear of a job that was cancelled."""


class Producer:
    """`JobProducer` and `FlowStore`, for jobs that have an id."""

    def __init__(self, world: Known) -> None:
        self._world = world

    async def add(self, queue: str, jobs: Sequence[JobSpec], now_ms: int, *, again: bool = False) -> list[bytes]:
        """Add jobs that are not there."""
        for job in jobs:
            assert job.opts is not None
            self._world.added(str(job.opts.jobId))
            self._world.stores[queue].add_once(job.name, bytes(job.data), job.opts)
        return [b"" for _ in jobs]

    async def add_flows(self, flows: Sequence[FlowJob], now_ms: int) -> list[Any]:
        """Add jobs with the job that waits for their end."""
        for parent in flows:
            for child in parent.children:
                assert child.opts is not None
                store = self._world.stores[child.queueName]
                self._world.added(str(child.opts.jobId))
                if str(child.opts.jobId).encode() not in store.jobs:
                    store.parents[str(child.opts.jobId).encode()] = bytes(parent.data)
                store.add_once(child.name, bytes(child.data), child.opts)
        return []


class Flows:
    """`FlowStore` over a producer behind a line."""

    def __init__(self, producer: Any) -> None:
        self.add = producer.add_flows


class Keys:
    """`IdempotencyStore` in memory."""

    def __init__(self, now: Now) -> None:
        self._entries: dict[str, tuple[IdempotencyEntry, float]] = {}
        self._now = now

    async def claim(
        self, name: str, job_id: str, digest: str, instead_of: IdempotencyEntry | None = None
    ) -> IdempotencyEntry:
        """Return the entry of a name, or write one."""
        found = self._entries.get(name)
        same = found is not None and instead_of is not None and found[0] == structs.replace(instead_of, age_s=0)
        if found is not None and not same:
            return structs.replace(found[0], age_s=max(0, int(self._now() - found[1])))
        mine = IdempotencyEntry(job_id, digest, settled=False)
        self._entries[name] = mine, self._now()
        return mine

    async def settle(self, name: str, entry: IdempotencyEntry) -> None:
        """Mark the entry as settled, unless the name has another job."""
        found = self._entries.get(name)
        if found is None or (found[0].job_id, found[0].digest) == (entry.job_id, entry.digest):
            self._entries[name] = IdempotencyEntry(entry.job_id, entry.digest, settled=True), self._now()


class Proxied:
    """`ProxiedJobs` and `QueueControl.clean` over the stores of a world, with the clock of Redis."""

    def __init__(self, world: Known, retention_s: float) -> None:
        self._world = world
        self._retention_s = retention_s

    def _place(self, job_id: str) -> tuple[str, ProxyStore] | None:
        for queue, store in self._world.stores.items():
            if "/" in queue and job_id.encode() in store.jobs:
                return queue, store
        return None

    async def find(self, job_id: str) -> ProxiedJob | None:
        """Return a job; None if there is none, or its time is over."""
        place, key = self._place(job_id), job_id.encode()
        if place is None:
            return None
        queue, store = place
        fields = store.jobs[key]
        status: Status = "queued"
        if key in store.completed or key in store.failed:
            status = "completed" if key in store.completed else "failed"
        elif (key in store.active and not store._lapsed(key)) or int(fields.get(b"atm", b"0")):
            status = "running"
        found = ProxiedJob(
            id=job_id,
            queue=queue,
            status=status,
            name=fields[b"name"].decode(),
            finished_at_ms=int(store.finished.get(key, 0.0) * 1000),
            error=fields.get(b"failedReason", b"").decode(),
        )
        return None if found.gone(self._world.now(), self._retention_s) else found

    async def response(self, job: ProxiedJob) -> bytes | None:
        """Return the recorded response."""
        fields: dict[bytes, bytes] = self._world.stores[job.queue].jobs.get(job.id.encode(), {})
        return fields.get(RESPONSE_FIELD)

    async def kept(self, job: ProxiedJob) -> KeptRequest | None:
        """Return None: operators are not here."""
        return None

    async def had_ended(self, job_id: str, callbacks: str) -> bool:
        """Return True if a job that is gone had completed or failed."""
        return any(job_id.encode() in store.ends for store in self._world.stores.values())

    async def cancel(self, job: ProxiedJob) -> bool:
        """Remove a job in any state, and let its worker know."""
        found: bool = self._world.stores[job.queue].remove(job.id.encode())
        if found:
            self._world.cancelled(job.queue, job.id.encode())
        return found

    async def clean(self, queue: str, state: str, grace_ms: int, limit: int) -> list[bytes]:
        """Remove the ended jobs of a state that are old enough."""
        store: ProxyStore = self._world.stores[queue]
        before = self._world.now() - grace_ms / 1000
        ended = store.completed if state == "completed" else store.failed
        old = [job_id for job_id in ended if store.finished.get(job_id, before + 1) <= before]
        for job_id in old:
            store.remove(job_id)
        return old


class Answers:
    """`AnswerCache` in Redis: answers and claims, each with its end."""

    def __init__(self, ttl_s: float, now: Now) -> None:
        self._kept: dict[str, tuple[bytes, float]] = {}
        self._claims: dict[str, tuple[bytes, float]] = {}
        self._ttl_s = ttl_s
        self._now = now

    async def get(self, key: str) -> bytes | None:
        """Return what is kept."""
        value, until = self._kept.get(key, (b"", 0.0))
        return value if until > self._now() else None

    async def put(self, key: str, value: bytes) -> None:
        """Keep this."""
        self._kept[key] = value, self._now() + self._ttl_s

    async def claim(self, key: str, who: bytes, for_s: float) -> bool:
        """Claim a key, unless another one has."""
        holder, until = self._claims.get(key, (who, 0.0))
        if holder != who and until > self._now():
            return False
        self._claims[key] = who, self._now() + for_s
        return True

    async def release(self, key: str, who: bytes) -> None:
        """Release a claim."""
        if self._claims.get(key, (b"", 0.0))[0] == who:
            del self._claims[key]


class Ends:
    """The events that end jobs. An instance that cannot be reached learns later that it has missed some."""

    def __init__(self) -> None:
        self._listening: dict[tuple[str, str], list[tuple[Line, asyncio.Queue[Event]]]] = {}

    def happened(self, queue: str, job_id: str, name: str) -> None:
        """Tell all that listen."""
        for line, heard in self._listening.get((queue, job_id), ()):
            self._tell(line, heard, Event((0, 0), name, b"{}", job_id.encode()))

    def _tell(self, line: Line, heard: "asyncio.Queue[Event]", event: Event) -> None:
        loop = asyncio.get_running_loop()
        if line.reachable:
            loop.call_later(0.001, heard.put_nowait, event, context=Context())
        elif line.alive:
            loop.call_later(1.0, self._tell, line, heard, Event((0, 0), GAP, b"{}"), context=Context())

    def of(self, line: Line) -> "LineEnds":
        """Return the events as an instance hears them."""
        return LineEnds(self._listening, line)


class LineEnds:
    """`EventFeed.ending` of one instance."""

    def __init__(self, listening: dict[tuple[str, str], list[tuple[Line, "asyncio.Queue[Event]"]]], line: Line) -> None:
        self._listening = listening
        self._line = line

    @asynccontextmanager
    async def ending(self, queue: str, job_id: str) -> AsyncIterator[Callable[[], Awaitable[Event | None]]]:
        """Listen for the end of a job."""
        heard: asyncio.Queue[Event] = asyncio.Queue()
        listeners = self._listening.setdefault((queue, job_id), [])
        listeners.append((self._line, heard))
        try:
            yield heard.get
        finally:
            listeners.remove((self._line, heard))
