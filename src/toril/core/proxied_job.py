"""A proxied request's job as its caller sees it: its id, and the four states that BullMQ's are collapsed to."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from toril.core import moments

Status = Literal["queued", "running", "completed", "failed"]

RESPONSE_FIELD = b"response"
"""The field of a job's hash that holds the recorded response."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")


def new_id(chance: bytes, queue: str) -> str:
    """A version 4 UUID of 16 random bytes, whose last four digits say (as a hash) which queue the job is in.

    106 bits stay unguessable, and whoever asks for a job by its id alone need not look into every queue.
    """
    text = chance[:14].hex() + f"{tag(queue):04x}"
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


def tag(queue: str) -> int:
    """What an id has of its queue's name."""
    return zlib.crc32(queue.encode()) & 0xFFFF


def is_id(text: str) -> bool:
    """Return True if this can be the id of a proxied job."""
    return _UUID.match(text) is not None


def candidates(job_id: str, queues: Sequence[str]) -> list[str]:
    """The queues that a job of this id can be in: one, save for a rare chance; none for what is no id of ours."""
    if not is_id(job_id):
        return []
    wanted = int(job_id[-4:], 16)
    return [queue for queue in queues if tag(queue) == wanted]


class ProxiedJobStatus(Struct):
    """A job as proxq shows it. A job that failed has an `error`, one that completed says when: whole seconds of UTC."""

    id: str
    status: Status
    error: str | UnsetType = UNSET
    completedAt: str | UnsetType = UNSET  # noqa: N815 - proxq's spelling


class ProxiedJob(Struct, frozen=True, kw_only=True):
    """What is known of a job.

    `finished_at_ms` is 0 until it has completed or failed; `name` is what `job_name` made.
    """

    id: str
    queue: str
    status: Status
    name: str = ""
    finished_at_ms: int = 0
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in ("completed", "failed")

    def gone(self, now_s: float, retention_s: float) -> bool:
        """Whether it ended so long ago that it counts as forgotten, also where it is still stored."""
        return bool(self.finished_at_ms) and self.finished_at_ms / 1000 + retention_s <= now_s

    def as_json(self) -> bytes:
        """`{"id","status"[,"error"][,"completedAt"]}`, as proxq answers it."""
        shown = ProxiedJobStatus(self.id, self.status)
        if self.status == "failed":
            shown.error = self.error or "the request failed"
        if self.status == "completed":
            shown.completedAt = moments.shown(self.finished_at_ms // 1000, "seconds")
        return msgspec.json.encode(shown)


def job_name(method: str, target: bytes, owner: str = "") -> str:
    """What a dashboard calls the job: `POST /v1/images`, and whose it is where only its owner may see it."""
    path = target.partition(b"?")[0].decode("latin-1")[:100]
    return f"{method} {path} by {owner}" if owner else f"{method} {path}"


def is_owned_by(name: str, owner: str) -> bool:
    """Whether `job_name` was given this owner."""
    return bool(owner) and name.endswith(f" by {owner}")
