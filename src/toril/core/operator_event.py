"""Events that operators are told of: their types, which of them are wanted, and what is sent of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from msgspec import Struct

from toril.core.times import moment_text

EVENT_TYPES = (
    "delivery.dead_lettered",
    "breaker.opened",
    "breaker.closed",
    "target.failing",
    "target.recovered",
    "worker.failing",
    "worker.recovered",
    "queue.stuck",
    "ledger.unreachable",
    "ledger.back",
    "config.kept",
)

_encode = msgspec.json.Encoder().encode


class OperatorEvent(Struct, frozen=True):
    """A fact that operators are told of. Instances that see the same fact make events with the same `key`.

    `target` is the target that the fact is about, if it is about one.
    """

    type: str
    subject: str
    at_s: float
    data: Mapping[str, Any]
    target: str | None = None

    @property
    def key(self) -> str:
        """The same for one fact on every instance, and different for every fact."""
        fact = f"{self.type} {self.subject} {round(self.at_s * 1e6)}"
        return f"{self.type}.{hashlib.sha256(fact.encode()).hexdigest()[:32]}"

    def body(self) -> bytes:
        """Return the JSON text to send, in the shape of Standard Webhooks."""
        return _encode({"type": self.type, "timestamp": moment_text(self.at_s), "data": dict(self.data)})


def matches(wanted: Sequence[str], event_type: str) -> bool:
    """Return True if a type matches one of the patterns, such as `breaker.*`."""
    return any(fnmatchcase(event_type, pattern) for pattern in wanted)
