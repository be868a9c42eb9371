"""Jobs and events as plain data."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class NewJob:
    """A job to add. Without an id one is made up here, so that adding it twice adds it once."""

    name: str
    data: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What is posted. A deduplicated job keeps its own rules and gets no id."""
        options = dict(self.options)
        if "deduplication" not in options:
            options.setdefault("jobId", str(uuid.uuid4()))
        return {"name": self.name, "data": self.data, "opts": options}


@dataclass(frozen=True)
class Job:
    """A job as the server tells of it; `raw` has every field as it came."""

    id: str
    name: str
    data: Any
    progress: Any
    returnvalue: Any
    failed_reason: str | None
    attempts_made: int
    raw: Mapping[str, Any]

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Job:
        """Read job JSON."""
        return cls(
            id=raw["id"],
            name=raw["name"],
            data=raw["data"],
            progress=raw.get("progress"),
            returnvalue=raw.get("returnvalue"),
            failed_reason=raw.get("failedReason"),
            attempts_made=raw.get("attemptsMade", 0),
            raw=raw,
        )


@dataclass(frozen=True)
class Event:
    """Something that happened. `id` is where to resume from; a `gap` says that events before it are lost."""

    id: str
    name: str
    data: Mapping[str, Any]
