"""Pull workers: what they ask for (jobs, for a while), and how they end what they have."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from toril.core.actions import invalid
from toril.core.destinations.base import Chance
from toril.core.errors import InvalidRequest
from toril.core.failed_attempt import worker_failed
from toril.core.job import Count, Name, json_unless_given, require_utf8
from toril.core.lease import MAX_LOCK_MS, MIN_LOCK_MS, Lease
from toril.core.outcome import WorkerError
from toril.core.verdict import Complete, Settlement

MAX_COUNT = 100
MAX_WAIT_MS = 60_000
MAX_SETTLED = 1000

LockMs = Annotated[int, Meta(ge=MIN_LOCK_MS, le=MAX_LOCK_MS)]


class Ask(Struct, frozen=True, forbid_unknown_fields=True):
    """Up to `count` jobs, each for `lock_ms`; where there is none, wait up to `wait_ms` for the first."""

    count: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 1
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0
    lock_ms: LockMs = 30_000
    worker: Annotated[Name, Meta(max_length=100)] | None = None


class Finished(Struct, frozen=True, forbid_unknown_fields=True, tag_field="action", tag="complete"):
    """The job is done; `returnvalue` is any JSON."""

    returnvalue: Raw = json_unless_given(b"null")

    def verdict(self, lease: Lease, chance: Chance) -> Settlement:
        """Complete it."""
        return Complete(bytes(self.returnvalue))


class Failed(Struct, frozen=True, forbid_unknown_fields=True, tag_field="action", tag="fail"):
    """The attempt has failed. `retry_in_ms` replaces the job's backoff and grants no attempt."""

    reason: str
    unrecoverable: bool = False
    retry_in_ms: Count | None = None

    def verdict(self, lease: Lease, chance: Chance) -> Settlement:
        """Retry while attempts are left, as for every other worker."""
        return worker_failed(lease, WorkerError(self.reason, "", self.unrecoverable, self.retry_in_ms), chance)


class Extended(Struct, frozen=True, forbid_unknown_fields=True, tag_field="action", tag="extend"):
    """It takes longer: the lease ends `lock_ms` from now; where that is not said, as long as it was made for."""

    lock_ms: LockMs | None = None


class Released(Struct, frozen=True, forbid_unknown_fields=True, tag_field="action", tag="release"):
    """Somebody else may have it: back to the head of the queue, and no attempt is spent."""


Action = Finished | Failed | Extended | Released


class Item(Struct, frozen=True):
    """One of several jobs to settle: the action, and the job's id and token beside it."""

    id: str
    token: str
    action: Literal["complete", "fail", "extend", "release"]


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """Several jobs to settle."""

    jobs: list[Raw]


_ASK = msgspec.json.Decoder(Ask)
_BATCH = msgspec.json.Decoder(Batch)
_ITEM = msgspec.json.Decoder(Item)
_KINDS: dict[str, type[Action]] = {"complete": Finished, "fail": Failed, "extend": Extended, "release": Released}


def read_ask(body: bytes) -> Ask:
    """Read the body of a lease.

    Raises:
        InvalidRequest: naming the field that is not valid.
    """
    require_utf8(body)
    try:
        return _ASK.decode(body or b"{}")
    except (msgspec.DecodeError, RecursionError) as exc:
        raise invalid(exc) from exc


def read_action(name: str, body: bytes) -> Action:
    """Read what a worker says of its job; `name` is the action.

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
    """The items of a batch, each to be read by itself: one that is bad spoils no other.

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
    """The id, the token and the action of one item.

    Raises:
        InvalidRequest: naming the field that is not valid.
    """
    try:
        found = _ITEM.decode(item)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise invalid(exc) from exc
    return found.id, found.token.encode(errors="replace"), read_action(found.action, item)


def id_of(item: bytes) -> str | None:
    """The id of an item that may not be what it should be."""
    try:
        fields = msgspec.json.decode(item)
    except (msgspec.DecodeError, RecursionError):
        return None
    found = fields.get("id") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else None
