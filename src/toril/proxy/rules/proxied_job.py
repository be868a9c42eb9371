"""A proxied job as its caller sees it: its id, and one of four states in place of BullMQ's."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from toril.core.times import moment_text

Status = Literal["queued", "running", "completed", "failed"]

RESPONSE_FIELD = b"response"
"""The field of a job's hash that holds the recorded response."""

_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")


def new_id(random: bytes, queue: str) -> str:
    """Return a version 4 UUID of 16 random bytes; its last four digits are a hash of the queue's name.

    106 bits stay random, and a job can be found by its id without looking into every queue.
    """
    text = random[:14].hex() + tag_text(queue)
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANTS[text[16]]}{text[17:20]}-{text[20:]}"


def tag(queue: str) -> int:
    """Return the hash of a queue's name in the ids of its jobs."""
    return zlib.crc32(queue.encode()) & 0xFFFF


@lru_cache(maxsize=1024)
def tag_text(queue: str) -> str:
    """Return the last four digits of the ids of a queue's jobs."""
    return f"{tag(queue):04x}"


def is_id(text: str) -> bool:
    """Return True if this can be the id of a proxied job."""
    return _UUID.match(text) is not None


def candidates(job_id: str, queues: Sequence[str]) -> list[str]:
    """Return the queues that a job of this id can be in: one, unless two names have the same tag.

    There is none for a text that is not the id of a proxied job.
    """
    if not is_id(job_id):
        return []
    wanted = int(job_id[-4:], 16)
    return [queue for queue in queues if tag(queue) == wanted]


class ProxiedJobStatus(Struct):
    """A job as proxq shows it. A failed job has an `error`, a completed one its time: UTC, in whole seconds."""

    id: str
    status: Status
    error: str | UnsetType = UNSET
    completedAt: str | UnsetType = UNSET  # noqa: N815 - proxq's spelling


class ProxiedJob(Struct, frozen=True, kw_only=True):
    """A proxied job.

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
        """True once the job has completed or failed."""
        return self.status in ("completed", "failed")

    def gone(self, now_s: float, retention_s: float) -> bool:
        """Return True if it ended so long ago that it counts as gone, stored or not."""
        return bool(self.finished_at_ms) and self.finished_at_ms / 1000 + retention_s <= now_s

    def as_json(self) -> bytes:
        """Return `{"id","status"[,"error"][,"completedAt"]}`, as proxq answers it."""
        shown = ProxiedJobStatus(self.id, self.status)
        if self.status == "failed":
            shown.error = self.error or "the request failed"
        if self.status == "completed":
            shown.completedAt = moment_text(self.finished_at_ms // 1000, "seconds")
        return msgspec.json.encode(shown)


def job_name(method: str, target: bytes, owner: str = "") -> str:
    """Return the job's name for dashboards: `POST /v1/images`, with its owner if only that one may see it."""
    path = target.partition(b"?")[0].decode("latin-1")[:100]
    return f"{method} {path} by {owner}" if owner else f"{method} {path}"


def owner_in(name: str) -> str:
    """Return the owner that `job_name` was given; empty if there was none."""
    return name.rpartition(" by ")[2] if " by " in name else ""


def is_owned_by(name: str, owner: str) -> bool:
    """Return True if `job_name` was given this owner."""
    return bool(owner) and name.endswith(f" by {owner}")
