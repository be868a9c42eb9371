"""What the rooms need of each other, as small Protocols. `toril.bootstrap` hands in the implementations.

Unless a method says otherwise it may raise `StoreUnavailable` (nothing was written) or its subclasses
`ConnectionLost` and `StoreTimeout` (whether it was written is unknown).
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

from toril.core.access import RateLimit
from toril.core.actions import Dependencies, Metrics, QueueState, RateLimitState
from toril.core.attempt import Attempt
from toril.core.blob import Blob, BlobRef, Kept
from toril.core.breaker import Admission, Breaker
from toril.core.destinations.base import Destination, LeaseRules, OutboundRequest
from toril.core.event import Event, Position
from toril.core.flow import AddedJob, Depth, FlowJob, FlowTree
from toril.core.job import JobSpec
from toril.core.lease import Lease, Next
from toril.core.metrics import Metric, QueueDepth
from toril.core.outcome import ConnectFailed, CutOff, Outcome, TimedOut
from toril.core.scheduler import SchedulerSpec
from toril.core.stored_job import Fields
from toril.core.streaming import StreamHead, StreamRequest
from toril.core.target import BreakerPolicy
from toril.core.verdict import Complete, Fail, Retry, Snooze

if TYPE_CHECKING:  # what pull workers say is judged by destinations, which need a port themselves
    from toril.core.pull import Action, Ask

Now = Callable[[], float]
"""The wall clock: seconds since the epoch, UTC."""


class JobProducer(Protocol):
    """Adds jobs."""

    async def add(self, queue: str, jobs: Sequence[JobSpec], timestamp_ms: int) -> list[bytes]:
        """Add jobs in order, several of them all or none; returns their ids. Not idempotent without custom ids."""
        ...


class JobReader(Protocol):
    """Reads jobs; writes nothing."""

    async def get(self, queue: str, job_id: str) -> Fields | None:
        """The job's hash, or None."""
        ...

    async def page(
        self, queue: str, statuses: Sequence[str], start: int, length: int
    ) -> tuple[Mapping[str, int], list[tuple[bytes, Fields]]]:
        """Counts by status, and the newest `length` jobs from `start` on of each status, one after another."""
        ...

    async def counts(self, queue: str, states: Sequence[str]) -> Mapping[str, int]:
        """How many jobs are in each of these states; `waiting` is not `paused`."""
        ...

    async def jobs(
        self, queue: str, states: Sequence[str], window: tuple[int, int], *, oldest_first: bool
    ) -> list[tuple[bytes, Fields]]:
        """The jobs of some states, one state after another, from the first to the last of the window (inclusive)."""
        ...

    async def logs(self, queue: str, job_id: str, start: int, end: int) -> tuple[list[bytes], int]:
        """Log lines from `start` to `end` inclusive (negative from the end), oldest first, and their count."""
        ...

    async def lock_token(self, queue: str, job_id: str) -> bytes | None:
        """The token that holds the job's lock now, or None."""
        ...


class JobFinder(Protocol):
    """Tells which jobs there are."""

    async def missing(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """Those of these ids that no job has."""
        ...


class JobReporter(Protocol):
    """What a worker reports of a job it holds. Whoever calls these has checked the lock token."""

    async def progress(self, queue: str, job_id: str, value: bytes) -> bool:
        """Store a JSON text as the progress and announce it; False when the job is gone."""
        ...

    async def log(self, queue: str, job_id: str, line: str) -> bool:
        """Append a log line, within the job's `keepLogs`; False when the job is gone."""
        ...


class WorkerRegistry(Protocol):
    """The fleet's registered workers: documents by queue name, shared with BullMQ Proxy instances."""

    async def put(self, queue: str, document: bytes) -> None:
        """Store a document and announce it, atomically. Idempotent but for the announcement."""
        ...

    async def remove(self, queue: str) -> bool:
        """Remove a document and announce it, atomically; False (and nothing announced) when there was none."""
        ...

    async def pause(self, queue: str, *, paused: bool) -> bool:
        """Pause a worker, or let it go on, in the whole fleet, and announce it, atomically. Idempotent.

        Touches neither the queue nor the document; a pause outlives a new document and ends with `remove`. False (and
        nothing written) when there is no such worker.
        """
        ...

    async def paused(self) -> set[str]:
        """The queues whose worker is paused."""
        ...

    async def all(self) -> dict[str, bytes]:
        """Every document."""
        ...

    async def some(self, queues: Sequence[str]) -> dict[str, bytes]:
        """The documents of these queues, those that exist."""
        ...

    async def position(self) -> str:
        """The id of the newest announcement, to follow from."""
        ...

    async def changed_since(self, position: str) -> tuple[str, list[str], bool]:
        """Wait a few seconds for announcements after `position`.

        Returns the new position, the queues named, and whether some announcements may have been trimmed away
        unseen, so that only comparing everything tells.
        """
        ...


class RecentAttempts(Protocol):
    """The last attempts of each registered worker, known to the whole fleet."""

    def note(self, queue: str, attempt: Attempt) -> None:
        """Remember one. Costs nothing worth measuring; others see it within two seconds."""
        ...

    async def recent(self, queue: str) -> list[bytes]:
        """The newest twenty as JSON, the newest first."""
        ...


class LeaseStore(Protocol):
    """Leases jobs of one queue and settles them. Each call is one atomic step in Redis."""

    async def take(self, token: bytes) -> Next:
        """Lease the next job under `token`."""
        ...

    async def complete(self, lease: Lease, verdict: Complete, *, fetch_next: bool) -> Next | None:
        """Move the job to completed, and lease the next one under the same token if asked to.

        Returns None only when no next job was looked for.

        Raises:
            LeaseLost: nothing was written, the lock is not ours any more.
            JobRefused: the job cannot complete (it has pending or failed children); it is still ours.
        """
        ...

    async def retry(self, lease: Lease, verdict: Retry, *, fetch_next: bool) -> Next | None:
        """Move the job to waiting, or to delayed for `after_ms`; raises as `complete`."""
        ...

    async def fail(self, lease: Lease, verdict: Fail, *, fetch_next: bool) -> Next | None:
        """Move the job to failed; raises as `complete`."""
        ...

    async def snooze(self, lease: Lease, verdict: Snooze, *, fetch_next: bool) -> Next | None:
        """Move the job to delayed for `after_ms`, spending no attempt; raises as `complete`."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give the job back to the head of the queue, spending no attempt; raises as `complete`."""
        ...

    async def extend(self, leases: Sequence[Lease]) -> set[bytes]:
        """Renew the locks of these leases; returns the ids of the jobs whose lock is not ours any more."""
        ...

    async def hand_over(self, lease: Lease, lock_ms: int) -> float | None:
        """Let the lock last for `lock_ms` from now, or as long as its holder has asked for meanwhile.

        Returns how many seconds that is, or None when the lock is not ours any more.
        """
        ...

    async def left_s(self, lease: Lease) -> float | None:
        """For how long the lock holds yet; None when it is not ours any more."""
        ...

    async def recover_stalled(self) -> list[bytes]:
        """Put jobs without a lock back to waiting (BullMQ's stalled check); returns their ids."""
        ...

    async def adopt(self, tokens: Iterable[bytes]) -> list[Lease]:
        """Find active jobs locked by these tokens: leases whose answer got lost with a connection."""
        ...

    async def schedule_next(self, lease: Lease) -> None:
        """Produce the next iteration of the job scheduler that this job came from."""
        ...


class PullStore(LeaseStore, Protocol):
    """A `LeaseStore` for leases that are not renewed, and that are settled by their token."""

    @property
    def queue(self) -> str:
        """The queue whose jobs it leases."""
        ...

    async def held(self, job_id: bytes, token: bytes) -> Lease:
        """The lease of a job that this token holds; raises `WrongLockToken`, or `LeaseLost` where none does."""
        ...

    async def recover_lapsed(self, within_ms: int) -> list[bytes]:
        """The stalled check, at most once `within_ms` fleet-wide; the ids of the jobs that are back."""
        ...


class PullStores(Protocol):
    """Makes a `PullStore` for a queue."""

    def of(self, queue: str, rules: LeaseRules, lock_ms: int | None = None, worker: str | None = None) -> PullStore:
        """Leases of this length, taken by a worker of this name. Cheap: opens nothing."""
        ...


class LeasedQueues(Protocol):
    """Which queues have leases that nobody renews, known to the whole fleet."""

    async def note(self, queue: str, until_s: float) -> None:
        """This queue may have such leases until this time (wall clock)."""
        ...

    async def all(self) -> list[str]:
        """The queues that have, or have had until a moment ago."""
        ...


class SettledNews(Protocol):
    """Tells instances of jobs of theirs that were settled by a call to another one."""

    async def tell(self, instance: bytes, queue: str, job_id: bytes) -> None:
        """Tell an instance. Nothing may come of it: whoever is told looks now and then all the same."""
        ...

    async def follow(self, heard: Callable[[str, bytes], None]) -> None:
        """Call this with the queue and the id of each job that we are told of, until cancelled."""
        ...


class Meter(Protocol):
    """Keeps what is measured. Cheap enough for every request and every job; never waits, never fails.

    The metrics stand in `toril.core.metrics`; labels are given in the order that they have there.
    """

    def count(self, metric: Metric, labels: tuple[str, ...] = (), by: float = 1.0) -> None:
        """Add to a counter, or to a gauge, which may fall."""
        ...

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Put a value into a histogram, in seconds."""
        ...


class QueueDepths(Protocol):
    """Reads how full queues are."""

    async def read(self, queues: Sequence[str]) -> list[QueueDepth]:
        """The depths of these queues, in their order, all at once; one that cannot be read is left out."""
        ...


class Exposition(Protocol):
    """Everything measured, as a text for whoever collects it."""

    async def text(self, sees: Callable[[str], bool]) -> tuple[bytes, bytes]:
        """The content type, and the text: of all processes of the instance, whichever is asked. Never raises.

        Queues that the caller may not see are among the `other` ones.
        """
        ...


class RateLimits(Protocol):
    """Counts requests, in the whole fleet together."""

    async def spend(self, name: str, limit: RateLimit) -> float:
        """Count one request of this name, in one atomic step; 0 when it is within the limit.

        Otherwise it is not counted, and the answer is how many seconds from now one would be within the limit.
        """
        ...


class MarkerWaits(Protocol):
    """Waits for work on all queues over a few blocking connections."""

    def watch(self, queue: str, wake: Callable[[float], None]) -> None:
        """Wait for this queue until something comes; then `wake(at_s)` is called once, from the event loop.

        `at_s` is 0 when a job waits now, else the wall-clock time of the earliest delayed job.
        """
        ...

    def unwatch(self, queue: str) -> None:
        """Stop waiting for this queue. Does nothing if it was not watched."""
        ...

    def put_back(self, queue: str, at_s: float) -> None:
        """Leave a marker for whoever waits next, here or elsewhere: jobs wait now (0), or from `at_s` on."""
        ...


class Presence(Protocol):
    """Shows BullMQ's `getWorkers` that a queue is being worked on."""

    def active(self, queue: str) -> None:
        """The queue had a job just now."""
        ...

    def gone(self, queue: str) -> None:
        """The queue has no worker here any more."""
        ...


class Seat(Protocol):
    """A worker's place at a queue, for as long as its socket lives."""

    def stop(self) -> None:
        """Lease no more; what it holds goes on."""
        ...

    async def done(self) -> None:
        """Wait until its last job has ended. Only for a seat that is leased nothing more."""
        ...

    async def leave(self) -> None:
        """Lease no more; give the jobs it holds back to waiting, without spending an attempt."""
        ...


class Seats(Protocol):
    """Lets workers on sockets consume queues."""

    def join(self, destination: Destination, line: OutboundPool) -> Seat:
        """Begin to send jobs over this line, as many at once as the destination allows."""
        ...


class PullRequest(Protocol):
    """A request for jobs while it is served."""

    def hang_up(self) -> None:
        """Nobody waits for the answer any more: take no job."""
        ...


class Pulling(Protocol):
    """Leases jobs to workers that ask for them."""

    def begin(self, queue: str, ask: Ask) -> PullRequest:
        """A request for jobs, for `lease`."""
        ...

    async def lease(self, pull: Any) -> list[Lease]:
        """Jobs as soon as there is one; none when the time is over."""
        ...

    async def settle(self, queue: str, job_id: str, token: bytes, action: Action) -> None:
        """Do what the worker that holds this token says; raises `LeaseLost`, `WrongLockToken` and `JobRefused`."""
        ...


class QueueHolds(Protocol):
    """Keeps workers from taking a queue's jobs for a while."""

    async def hold(self, queue: str, for_ms: int) -> None:
        """Nothing starts for so long, from now on. Idempotent: the last hold counts."""
        ...

    async def let_go(self, queue: str) -> None:
        """End a hold, and what a rate limit has counted so far. Idempotent."""
        ...


class QueueControl(Protocol):
    """Reads and changes a queue as a whole, as BullMQ's Queue does."""

    async def names(self) -> list[str]:
        """The names of all queues, in order."""
        ...

    async def exists(self, queue: str) -> bool:
        """Whether anybody has ever used this queue."""
        ...

    async def describe(self, queue: str) -> QueueState:
        """The queue as it is now."""
        ...

    async def paused(self, queue: str) -> bool:
        """Whether the queue is paused."""
        ...

    async def drain(self, queue: str, *, delayed: bool) -> int:
        """Remove all jobs that wait, and with `delayed` those that are delayed; how many those were."""
        ...

    async def clean(self, queue: str, state: str, grace_ms: int, limit: int) -> list[bytes]:
        """Remove jobs of a state that are older than `grace_ms`, `limit` at most (0 is all); their ids."""
        ...

    async def obliterate(self, queue: str, *, force: bool) -> int:
        """Remove the queue with all its jobs; how many those were. Raises `JobRefused`: jobs are active."""
        ...

    async def retry(self, queue: str, state: str, most: int | None, before_ms: int | None) -> int:
        """Move finished jobs back to waiting, the oldest first; how many."""
        ...

    async def promote(self, queue: str, most: int | None) -> int:
        """Move delayed jobs to waiting; how many."""
        ...

    async def concurrency(self, queue: str) -> int | None:
        """How many jobs of this queue may be active at once, everywhere."""
        ...

    async def set_concurrency(self, queue: str, most: int | None) -> None:
        """Set or (None) remove that."""
        ...

    async def rate_limit(self, queue: str) -> RateLimitState:
        """The queue's own rate limit, and for how long nothing starts now."""
        ...

    async def set_rate_limit(self, queue: str, limit: tuple[int, int] | None) -> None:
        """At most so many jobs start per so many milliseconds, everywhere; None removes that."""
        ...

    async def hold(self, queue: str, for_ms: int) -> None:
        """Nothing starts for so long, from now on."""
        ...

    async def let_go(self, queue: str) -> None:
        """End a hold, and what a rate limit has counted so far."""
        ...

    async def metrics(self, queue: str, kind: str, start: int, end: int) -> Metrics:
        """How many jobs completed or failed, in all and per minute."""
        ...

    async def pause(self, queue: str) -> None:
        """No worker anywhere takes jobs of this queue any more. Idempotent."""
        ...

    async def resume(self, queue: str) -> None:
        """Workers take jobs again. Idempotent."""
        ...

    async def workers(self, queue: str) -> list[dict[str, str]]:
        """The connections that BullMQ knows as workers of this queue, as `CLIENT LIST` tells of them."""
        ...


class JobControl(Protocol):
    """Reads and changes one job, as BullMQ's Job does. Raises `JobNotFound`, and `JobRefused` in the wrong state."""

    async def state(self, queue: str, job_id: str) -> str:
        """The state that a job is in, in BullMQ's words; `unknown` where there is no such job."""
        ...

    async def remove(self, queue: str, job_id: str, *, children: bool) -> None:
        """Remove the job, with its children if asked to."""
        ...

    async def retry(self, queue: str, job_id: str, state: str) -> None:
        """Move a finished job back to waiting."""
        ...

    async def promote(self, queue: str, job_id: str) -> None:
        """Let a delayed job wait no longer."""
        ...

    async def update_data(self, queue: str, job_id: str, data: bytes) -> None:
        """Replace the job's data (JSON text)."""
        ...

    async def change_priority(self, queue: str, job_id: str, priority: int, *, lifo: bool) -> None:
        """Give the job another priority; it moves if it waits."""
        ...

    async def change_delay(self, queue: str, job_id: str, delay_ms: int) -> None:
        """Let a delayed job wait so long from now."""
        ...

    async def dependencies(self, queue: str, job_id: str) -> Dependencies:
        """What a flow's job waits for."""
        ...


class FlowStore(Protocol):
    """Adds and reads trees of jobs."""

    async def add(self, jobs: Sequence[FlowJob], timestamp_ms: int) -> list[AddedJob]:
        """Add trees, all of them or none."""
        ...

    async def read(self, queue: str, job_id: str, depth: Depth) -> FlowTree:
        """A job with what is below it. Raises `JobNotFound`."""
        ...


class SchedulerStore(Protocol):
    """Sets, reads and removes job schedulers."""

    async def put(self, queue: str, scheduler_id: str, spec: SchedulerSpec) -> None:
        """Set a scheduler, in place of the one that was, and produce its next job. Raises `InvalidRequest`."""
        ...

    async def get(self, queue: str, scheduler_id: str) -> tuple[Fields, int] | None:
        """A scheduler's hash, and when it makes the next job (milliseconds); None where there is none."""
        ...

    async def all(self, queue: str, start: int, end: int) -> tuple[list[tuple[str, Fields, int]], int]:
        """Schedulers from the first to the last (inclusive), the next to make a job first; and how many there are."""
        ...

    async def remove(self, queue: str, scheduler_id: str) -> bool:
        """Remove a scheduler and the job it has made for the next time; False where there is none."""
        ...


class QueueUpkeep(Protocol):
    """What BullMQ's Queue and Job offer beside the daily work. What names a job raises `JobNotFound`."""

    async def counts_per_priority(self, queue: str, priorities: Sequence[int]) -> list[int]:
        """How many jobs wait with each of these priorities; 0 is none."""
        ...

    async def deduplicated(self, queue: str, key: str) -> bytes | None:
        """The id of the job that holds a deduplication key."""
        ...

    async def forget_deduplication(self, queue: str, key: str) -> bool:
        """Remove a deduplication key; False where there is none."""
        ...

    async def trim_events(self, queue: str, most: int) -> int:
        """Keep so many of the newest events; how many are gone."""
        ...

    async def remove_orphans(self, queue: str, most: int | None) -> int:
        """Remove jobs that are in no state, about `most`; how many those were. Not atomic, and idempotent."""
        ...

    async def clear_logs(self, queue: str, job_id: str, keep: int) -> None:
        """Remove a job's log lines but the newest `keep`."""
        ...

    async def remove_children(self, queue: str, job_id: str) -> None:
        """Remove the children of a job that nobody has begun with."""
        ...

    async def detach(self, queue: str, job_id: str) -> bool:
        """Let a job's parent wait for it no longer; False where none does."""
        ...


class EventFollower(Protocol):
    """A listener's place in the events of a queue."""

    @property
    def position(self) -> Position:
        """Behind which the next batch begins."""
        ...

    async def batch(self) -> list[Event]:
        """The next events, at least one; none when the instance shuts down."""
        ...


class EventFeed(Protocol):
    """The events of queues, from one reader however many listen."""

    def follow(self, queue: str, since: Position | None) -> AbstractAsyncContextManager[EventFollower]:
        """Listen, from now on or from behind a position; what is lost is announced by a `gap`."""
        ...

    def ending(self, queue: str, job_id: str) -> AbstractAsyncContextManager[Callable[[], Awaitable[Event | None]]]:
        """Waits for the event that ends a job, if it comes while the block lasts; None when the instance shuts down.

        A `gap` comes instead where events got lost, and that one may be among them: look, and wait again.
        """
        ...


class OutboundPool(Protocol):
    """Connections to one destination."""

    async def send(self, request: OutboundRequest) -> Outcome:
        """Make one request and read the whole answer. Raises nothing but `CancelledError`."""
        ...

    def close(self) -> None:
        """Let idle connections go; those in use end with their request."""
        ...


class Outbound(Protocol):
    """Makes pools; one per destination, so that none can use up another one's connections."""

    def pool(self, url: str) -> OutboundPool:
        """A pool for the origin of this URL. Opens nothing yet."""
        ...


class Exchange(Protocol):
    """One request to an upstream under way, both directions at once. One task may write while another one reads.

    Raises nothing but `CancelledError`: what goes wrong is a value.
    """

    @property
    def over(self) -> bool:
        """Whether the whole answer has been read."""

    async def head(self, patience_s: float) -> StreamHead | ConnectFailed | TimedOut | CutOff:
        """How the answer begins: any number of heads below 200, then the real one.

        Time counts only while the upstream has all it can ask for, or takes no more of the body.
        """
        ...

    async def read(self, patience_s: float | None) -> bytes | TimedOut | CutOff:
        """What has come of the body, as soon as there is something; nothing at its end. None is patient for ever."""
        ...

    async def write(self, data: bytes) -> bool:
        """Send a piece of the body, and wait until another may follow; False when the upstream takes no more."""
        ...

    def end(self) -> None:
        """The body is whole."""
        ...

    def close(self) -> None:
        """End it now. Unless it is over in both directions, the upstream sees its connection closed. Idempotent."""
        ...


class StreamOutboundPool(Protocol):
    """Connections to one upstream."""

    async def open(self, request: StreamRequest, timeout_s: float) -> Exchange | ConnectFailed | TimedOut:
        """Connect and send the head. Whoever has the exchange closes it. Raises nothing but `CancelledError`."""
        ...

    def close(self) -> None:
        """Let idle connections go; those in use end with their request."""
        ...


class StreamOutbound(Protocol):
    """Makes pools for requests whose bodies pass through; one per upstream."""

    def pool(self, url: str) -> StreamOutboundPool:
        """A pool for the origin of this URL. Opens nothing yet."""
        ...


class Command(Protocol):
    """A Redis client for commands that are not on a hot path."""

    def __call__(self, *args: str | bytes | int | float) -> Awaitable[Any]:
        """Send one command, return its reply; raises `StoreRefused` on an error reply."""
        ...


class BlobStore(Protocol):
    """Keeps large bodies by name. Raises `BlobsUnavailable` where it cannot be reached or refuses.

    Names are those that `toril.core.blob` makes. Whoever refers to a blob puts it first and deletes it last.
    """

    async def put(self, name: str, body: bytes | AsyncIterable[bytes]) -> None:
        """Store a body, whole or not at all, so that it is there after a crash. The same name again replaces it.

        A stream is passed on piece by piece and never held whole. If it raises, nothing is stored.
        """
        ...

    async def get(self, name: str) -> bytes:
        """The whole body. Raises `BlobLost` where there is none."""
        ...

    def stream(self, name: str) -> AsyncIterator[bytes]:
        """The body piece by piece, a few MB at most in memory. Raises `BlobLost` where there is none."""
        ...

    async def delete(self, names: Sequence[str]) -> None:
        """Remove these bodies. Those that are not there are no fault, so it can be repeated."""
        ...

    def list(self, folder: str) -> AsyncIterator[Blob]:
        """What is stored in a folder (the names that begin with it and a slash), in no order; "" is all."""
        ...


class Bodies(Protocol):
    """Keeps bodies, those over a threshold in the blob store; `toril.intake.spill` tells more."""

    @property
    def threshold_bytes(self) -> int:
        """What is longer does not stay inline, if there is a store."""

    async def keep(self, folder: str, job_id: str, part: str, body: bytes) -> bytes | BlobRef:
        """The body itself, or its reference once it is safely stored. Idempotent. Raises `BlobsUnavailable`."""
        ...

    async def whole(self, kept: bytes | Kept) -> bytes:
        """The body that was kept. Raises `BlobsUnavailable`, and `BlobLost` where it is gone or another one."""
        ...

    def stream(self, kept: bytes | Kept) -> AsyncIterator[bytes]:
        """The body that was kept, piece by piece; raises as `whole`, before the last piece."""
        ...


class Breakers(Protocol):
    """The circuit breakers of targets, shared by the whole fleet; `toril.core.breaker` says what each call does.

    Each call is one atomic step, by one clock.
    """

    async def admit(self, target: str, policy: BreakerPolicy, probe: str, probe_for_s: float) -> Admission:
        """Whether an attempt may be made now. As a probe it is known by this id, and counts as gone after so long."""
        ...

    async def failed(self, target: str, policy: BreakerPolicy, probe: str | None) -> Breaker:
        """An attempt (this probe, if it was one) speaks against the target; the breaker as it is then."""
        ...

    async def passed(self, target: str, policy: BreakerPolicy, probe: str) -> Breaker:
        """A probe speaks for the target; the breaker as it is then."""
        ...

    async def left(self, target: str, policy: BreakerPolicy, probe: str) -> None:
        """A probe says nothing: its place is free."""
        ...

    async def read(self, target: str, policy: BreakerPolicy) -> tuple[Breaker, int]:
        """The breaker as it is, and how many failures count now. An open one stays so until somebody asks to pass."""
        ...
