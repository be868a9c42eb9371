"""A flow: jobs in a tree, in which a parent waits until its children are done. BullMQ's FlowProducer on our wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct

from toril.bullmq.rules.actions import invalid
from toril.bullmq.rules.job import JobOptions, JobSpec, Name, check_job
from toril.bullmq.rules.json_values import json_unless_given, require_utf8
from toril.core.errors import InvalidRequest
from toril.core.stored_job import Fields

MAX_JOBS = 1000
MAX_LEVELS = 100

NewId = Callable[[], str]


class FlowJob(Struct, frozen=True, forbid_unknown_fields=True):
    """A job of a flow. `data` is the JSON text that was sent."""

    name: Name
    queueName: str  # noqa: N815 - BullMQ's spelling
    data: Raw = json_unless_given(b"{}")
    opts: JobOptions | None = None
    children: list[FlowJob] = []

    def all(self) -> Iterator[FlowJob]:
        """Yield this job and its descendants, parents first."""
        yield self
        for child in self.children:
            yield from child.all()

    def queues(self) -> set[str]:
        """Return the names of all queues in the flow."""
        return {job.queueName for job in self.all()}

    def identified(self, new_id: NewId) -> FlowJob:
        """Return the flow with an id for every job that has none: children have to name their parent."""
        opts = self.opts or JobOptions()
        if not opts.jobId:
            opts = msgspec.structs.replace(opts, jobId=new_id())
        children = [child.identified(new_id) for child in self.children]
        return msgspec.structs.replace(self, opts=opts, children=children)

    @property
    def given_id(self) -> str:
        """The id from the caller or from `identified`; empty without one."""
        return "" if self.opts is None else self.opts.jobId or ""

    def spec(self) -> JobSpec:
        """Return the job without its children."""
        return JobSpec(self.name, self.data, self.opts)


class AddedJob(Struct):
    """A job with its parent and children; `qualified` is BullMQ's full name of its queue.

    `id` is the given id until the job is added. Then it is that of the stored job, which is an existing job if the
    deduplication id was taken.
    """

    job: FlowJob
    qualified: str
    id: str
    timestamp_ms: int
    parent: AddedJob | None
    children: list[AddedJob]

    @property
    def key(self) -> str:
        """The key of the job's hash."""
        return f"{self.qualified}:{self.id}"

    @property
    def dependencies_key(self) -> str:
        """The key of the set of children that the job waits for."""
        return f"{self.key}:dependencies"

    def all(self) -> Iterator[AddedJob]:
        """Yield this job and its descendants, parents first."""
        yield self
        for child in self.children:
            yield from child.all()


class FlowTree(Struct):
    """A stored job with its children."""

    queue: str
    job_id: str
    fields: Fields
    children: list[FlowTree]


class Depth(Struct, frozen=True):
    """How much of a tree is read: how many levels, how many children of each job, and of which queues."""

    levels: int
    max_children: int
    sees: Callable[[str], bool]


_FLOWS = msgspec.json.Decoder(FlowJob | list[FlowJob])


def read_flows(body: bytes, new_id: NewId) -> tuple[list[FlowJob], bool]:
    """Return the trees in a body, and True if it is a list. `new_id` makes ids for jobs without one.

    Raises:
        InvalidRequest: names the field that is not valid.
    """
    require_utf8(body)
    try:
        decoded: Any = _FLOWS.decode(body)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise invalid(exc) from exc
    flows: list[FlowJob] = decoded if isinstance(decoded, list) else [decoded]
    try:
        count = sum(1 for flow in flows for _ in flow.all())
        flows = [flow.identified(new_id) for flow in flows]
    except RecursionError as exc:
        raise InvalidRequest(f"A flow may have at most {MAX_LEVELS} levels", field="children") from exc
    if count > MAX_JOBS:
        raise InvalidRequest(f"At most {MAX_JOBS} jobs at a time", field="children")
    for flow in flows:
        if _levels(flow) > MAX_LEVELS:
            raise InvalidRequest(f"A flow may have at most {MAX_LEVELS} levels", field="children")
        _check_options(flow, is_child=False)
    _check_unique(flows)
    return flows, isinstance(decoded, list)


def _check_options(flow: FlowJob, *, is_child: bool) -> None:
    """Refuse options that BullMQ refuses, and ids that its scripts would cut off."""
    check_job(flow.spec())
    opts = flow.opts or JobOptions()
    # BullMQ's scripts take the part after the last colon of a job's key for its id.
    if opts.jobId and ":" in opts.jobId:
        raise InvalidRequest(f"Invalid jobId {opts.jobId}, an id in a flow must not contain :", field="jobId")
    if opts.deduplication is not UNSET and is_child:
        raise InvalidRequest("Deduplication and parent options cannot be used together", field="deduplication")
    if opts.deduplication is not UNSET and flow.children:
        raise InvalidRequest("Deduplication options cannot be used on flow nodes with children", field="deduplication")
    for child in flow.children:
        _check_options(child, is_child=True)


def _check_unique(flows: list[FlowJob]) -> None:
    """Refuse an id that occurs twice: a job cannot wait for itself, nor for a job that has another parent."""
    seen: set[tuple[str, str]] = set()
    for job in (job for flow in flows for job in flow.all()):
        if (job.queueName, job.given_id) in seen:
            raise InvalidRequest(f"The jobId {job.given_id} is there twice in the queue {job.queueName}", field="jobId")
        seen.add((job.queueName, job.given_id))


def _levels(flow: FlowJob) -> int:
    return 1 + max((_levels(child) for child in flow.children), default=0)
