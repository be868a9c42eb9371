"""Something that happened to a queue or a job, as BullMQ's event stream tells it."""

from __future__ import annotations

import re

from msgspec import Struct

from toril.core.errors import InvalidRequest

Position = tuple[int, ...]
"""A place in a stream: milliseconds and a number. A third part makes it lie just behind an entry."""

_ID = re.compile(r"(\d{1,19})(?:-(\d{1,19}))?\Z", re.ASCII)
GAP = "gap"


class Event(Struct, frozen=True):
    """One event. `data` is a JSON object without the event's name; a `gap` says that events before it are lost."""

    position: Position
    name: str
    data: bytes
    job_id: bytes | None = None

    @property
    def id(self) -> bytes:
        """The Redis stream id, to resume from."""
        return b"%d-%d" % self.position[:2]


def position_of(text: str) -> Position:
    """A stream id as a client gives it back.

    Raises:
        InvalidRequest: it is none.
    """
    found = _ID.match(text)
    if found is None:
        raise InvalidRequest(f"Invalid event id {text[:100]}", field="since")
    return int(found[1]), int(found[2] or 0)
