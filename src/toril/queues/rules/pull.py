"""The requests of pull workers: for jobs, and to settle, extend or release the jobs that they hold."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from toril.bullmq.rules.actions import invalid
from toril.bullmq.rules.job import Count, Name
from toril.bullmq.rules.json_values import json_unless_given, require_utf8
from toril.core.destination import RandomSource
from toril.core.errors import InvalidRequest
from toril.core.failed_attempt import worker_failed
from toril.core.lease import MAX_LOCK_MS, MIN_LOCK_MS, Lease
from toril.core.outcome import WorkerError
from toril.core.verdict import Complete, Settlement

MAX_COUNT = 100
MAX_WAIT_MS = 60_000
MAX_SETTLED = 1000

LockMs = Annotated[int, Meta(ge=MIN_LOCK_MS, le=MAX_LOCK_MS)]


class LeaseRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A request for up to `count` jobs, each for `lock_ms`; if there is none, wait up to `wait_ms` for the first."""

    count: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 1
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0
    lock_ms: LockMs = 30_000
    worker: Annotated[Name, Meta(max_length=100)] | None = None


class Finished(Struct, frozen=True, forbid_unknown_fields=True, tag_field="action", tag="complete"):
    """The job is done; `returnvalue` is any JSON."""

    returnvalue: Raw = json_unless_given(b"null")

    def verdict(self, lease: Lease, random: RandomSource) -> Settlement:
        """Return the verdict that completes the job."""
        return Complete(bytes(self.returnvalue))


class Failed(Struct, frozen=True, forbid_unknown_fields=True, tag_field="action", tag="fail"):
    """The attempt has failed. `retry_in_ms` replaces the job's backoff and grants no attempt."""

    reason: str
    unrecoverable: bool = False
    retry_in_ms: Count | None = None

    def verdict(self, lease: Lease, random: RandomSource) -> Settlement:
        """Return the verdict: retry while attempts are left, as for every worker."""
        return worker_failed(lease, WorkerError(self.reason, "", self.unrecoverable, self.retry_in_ms), random)


class Extended(Struct, frozen=True, forbid_unknown_fields=True, tag_field="action", tag="extend"):
    """The job takes longer: its lease ends `lock_ms` from now, by default the length it was made for."""

    lock_ms: LockMs | None = None


class Released(Struct, frozen=True, forbid_unknown_fields=True, tag_field="action", tag="release"):
    """The job goes back to the head of the queue, and no attempt is spent."""


Action = Finished | Failed | Extended | Released


class BatchAction(Struct, frozen=True):
    """One of several jobs to settle: the action, and the job's id and token beside it."""

    id: str
    token: str
    action: Literal["complete", "fail", "extend", "release"]


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """Several jobs to settle."""

    jobs: list[Raw]


_LEASE_REQUEST = msgspec.json.Decoder(LeaseRequest)
_BATCH = msgspec.json.Decoder(Batch)
_BATCH_ACTION = msgspec.json.Decoder(BatchAction)
_KINDS: dict[str, type[Action]] = {"complete": Finished, "fail": Failed, "extend": Extended, "release": Released}


def read_lease_request(body: bytes) -> LeaseRequest:
    """Read the body of a request for jobs.

    Raises:
        InvalidRequest: naming the field that is not valid.
    """
    require_utf8(body)
    try:
        return _LEASE_REQUEST.decode(body or b"{}")
    except (msgspec.DecodeError, RecursionError) as exc:
        raise invalid(exc) from exc


def read_action(name: str, body: bytes) -> Action:
    """Read an action on a job; `name` is the action.

    Raises:
        InvalidRequest: naming the field that is not valid.
    """
    require_utf8(body)
    try:
        fields = msgspec.json.decode(body or b"{}", type=dict[str, Raw])
        for field in ("action", "id", "token"):
            fields.pop(field, None)
        fields["action"] = Raw(msgspec.json.encode(name))
        return msgspec.json.decode(msgspec.json.encode(fields), type=_KINDS[name])
    except (msgspec.DecodeError, RecursionError) as exc:
        raise invalid(exc) from exc


def read_batch(body: bytes) -> list[bytes]:
    """Return the items of a batch, each to be read by itself: an invalid one does not affect the others.

    Raises:
        InvalidRequest: it is no batch.
    """
    require_utf8(body)
    try:
        items = _BATCH.decode(body).jobs
    except (msgspec.DecodeError, RecursionError) as exc:
        raise invalid(exc) from exc
    if len(items) > MAX_SETTLED:
        raise InvalidRequest(f"At most {MAX_SETTLED} jobs at a time", field="jobs")
    return [bytes(item) for item in items]


def read_item(item: bytes) -> tuple[str, bytes, Action]:
    """Return the id, the token and the action of an item.

    Raises:
        InvalidRequest: naming the field that is not valid.
    """
    try:
        found = _BATCH_ACTION.decode(item)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise invalid(exc) from exc
    return found.id, found.token.encode(errors="replace"), read_action(found.action, item)


def id_of(item: bytes) -> str | None:
    """Return the id of an item that may be invalid; None if it has none."""
    try:
        fields = msgspec.json.decode(item)
    except (msgspec.DecodeError, RecursionError):
        return None
    found = fields.get("id") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else None
