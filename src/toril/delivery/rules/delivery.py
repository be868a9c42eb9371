"""A delivery as the ledger keeps it: its envelope, its state, its attempts, the target's last response."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping

from msgspec import Struct

from toril.bullmq.rules.groups import GroupOption
from toril.delivery.rules.lifecycle import Status, Transition

QUEUE_PREFIX = "deliver-"
_JOB_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def folder_of(ledger_id: str) -> str:
    """Return the folder of the blob store with the bodies of this ledger's deliveries alone."""
    return f"deliveries-{ledger_id}"


def queue_of(target: str) -> str:
    """Return the name of a target's BullMQ queue."""
    return QUEUE_PREFIX + target


def target_of(queue: str) -> str | None:
    """Return the name of the target whose queue may be this; None for the name of any other queue."""
    return queue.removeprefix(QUEUE_PREFIX) if queue.startswith(QUEUE_PREFIX) else None


def new_job_id(at_s: float, entropy: bytes) -> str:
    """Return a job id that sorts by its time (RFC 9562, UUID version 7); `entropy` is 10 random bytes."""
    raw = bytearray(int(at_s * 1000).to_bytes(6, "big") + entropy)
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_job_id(text: str) -> bool:
    """Return True if a text has the form of a job id."""
    return _JOB_ID.match(text) is not None


class Inline(Struct, frozen=True, tag="inline"):
    """Content that is kept with its row."""

    data: bytes


class Stored(Struct, frozen=True, tag="stored"):
    """Content in the blob store, by its name there."""

    name: str
    size_bytes: int


Content = Inline | Stored


class Envelope(Struct, frozen=True, kw_only=True):
    """The part of a request that its caller decides.

    `path` is joined to the target's URL (None: the URL alone), header names are as given, and `content` is None where
    there is no body.
    """

    method: str = "POST"
    path: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    content: Content | None = None


class TargetResponse(Struct, frozen=True, kw_only=True):
    """An answer of the target; `truncated` if not all of its body is kept."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    content: Content = Inline(b"")
    truncated: bool = False

    @property
    def body_bytes(self) -> int:
        """How many bytes of the body are kept."""
        return len(self.content.data) if isinstance(self.content, Inline) else self.content.size_bytes


class AttemptOutcome(enum.StrEnum):
    """How an attempt ended, as this version writes it."""

    ANSWERED = "answered"
    TIMEOUT = "timeout"
    CONNECT_ERROR = "connect_error"
    TLS_ERROR = "tls_error"
    AUTH_ERROR = "auth_error"
    PROXY_ERROR = "proxy_error"
    CUT_OFF = "cut_off"
    EGRESS_REFUSED = "egress_refused"
    CANCELLED = "cancelled"
    LOST = "lost"


class AttemptRecord(Struct, frozen=True, kw_only=True):
    """A finished attempt; `number` counts from 1 and continues across replays.

    `outcome` is one of `AttemptOutcome`, or a word that a newer version has written into the same ledger.
    """

    number: int
    started_at_s: float
    duration_s: float
    outcome: str
    status_code: int | None = None
    error: str | None = None
    retry_after_s: float | None = None


class Delivery(Struct, frozen=True, kw_only=True):
    """The state of a delivery; its envelope, response and history are kept beside it.

    `attempts_made` counts the attempts spent of the present budget. `attempts_begun` counts all, so it is the number of
    the last one. `token`, `started_at_s` and `lease_until_s` belong to the attempt under way, or the last one.
    `replay_key` is what is sent as `idempotency-key` since a replay with a new one. `group` is what its envelope says.
    """

    job_id: str
    target: str
    status: Status
    seq: int
    created_at_s: float
    updated_at_s: float
    max_attempts: int
    next_attempt_at_s: float | None = None
    finished_at_s: float | None = None
    deadline_s: float | None = None
    priority: int = 0
    idempotency_key: str | None = None
    labels: Mapping[str, str] = {}
    attempts_made: int = 0
    attempts_begun: int = 0
    token: str = ""
    started_at_s: float | None = None
    lease_until_s: float | None = None
    last_error: str | None = None
    reason: str | None = None
    replay_key: str | None = None
    group: GroupOption | None = None

    @property
    def attempt_began_at_s(self) -> float:
        """When the attempt under way, or the last one, began; the last change where that is not known."""
        return self.updated_at_s if self.started_at_s is None else self.started_at_s

    @property
    def sent_key(self) -> str:
        """What is sent as `idempotency-key`: the caller's key, else the job's id, or that of a replay."""
        return self.replay_key or self.idempotency_key or self.job_id


class NewDelivery(Struct, frozen=True, kw_only=True):
    """A delivery to accept. A second envelope under the same key is compared with `fingerprint`."""

    job_id: str
    target: str
    envelope: Envelope
    at_s: float
    max_attempts: int
    by: str
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    not_before_s: float | None = None
    deadline_s: float | None = None
    priority: int = 0
    labels: Mapping[str, str] = {}
    group: GroupOption | None = None

    def first(self) -> tuple[Delivery, Transition]:
        """Return the delivery in its first state, and its first transition."""
        return self.queued(), Transition(seq=1, source=None, to=Status.QUEUED, at_s=self.at_s, by=self.by)

    def queued(self) -> Delivery:
        """Return the delivery in its first state."""
        return Delivery(
            job_id=self.job_id,
            target=self.target,
            status=Status.QUEUED,
            seq=1,
            created_at_s=self.at_s,
            updated_at_s=self.at_s,
            max_attempts=self.max_attempts,
            next_attempt_at_s=self.not_before_s,
            deadline_s=self.deadline_s,
            priority=self.priority,
            idempotency_key=self.idempotency_key,
            labels=self.labels,
            group=self.group,
        )


def clean(text: str | None) -> str | None:
    """Return a text that every store can hold: without NUL and lone surrogates."""
    if text is None:
        return None
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()
