"""BullMQ's key names of one queue."""

from __future__ import annotations

import base64

STORED_AS = {"waiting": "wait"}
"""States that BullMQ's keys call by another name."""
LISTS = frozenset({"wait", "waiting", "paused", "active"})
"""States whose jobs are in a list; the others are sorted sets."""


class QueueKeys:
    """Keys of one queue, as bytes. `key("wait")` is `bull:orders:wait`; a job's hash is `key(job_id)`."""

    __slots__ = ("name", "prefix", "qualified")

    def __init__(self, prefix: str, name: str) -> None:
        self.name = name
        self.qualified = f"{prefix}:{name}"
        self.prefix = f"{self.qualified}:".encode()

    def key(self, part: str | bytes) -> bytes:
        """The key of a part of the queue, or of a job."""
        return self.prefix + (part.encode() if isinstance(part, str) else part)

    def keys(self, *parts: str) -> tuple[bytes, ...]:
        """Several keys, in order."""
        return tuple(self.prefix + part.encode() for part in parts)

    def client_name(self) -> str:
        """The connection name by which BullMQ's `getWorkers` recognises a worker of this queue."""
        prefix = self.qualified[: -len(self.name) - 1]
        return f"{prefix}:{base64.b64encode(self.name.encode()).decode()}"
