"""Events of queues and jobs from BullMQ's event streams, and positions in these streams."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from toril.core.errors import InvalidRequest

Position = tuple[int, ...]
"""A position in a stream: milliseconds and a number. With a third part it lies just after an entry."""

_ID = re.compile(r"(\d{1,19})(?:-(\d{1,19}))?\Z", re.ASCII)
GAP = "gap"


class Event(Struct, frozen=True):
    """An event. `data` is a JSON object without the event's name; a `gap` says that events before it were lost."""

    position: Position
    name: str
    data: bytes
    job_id: bytes | None = None

    @property
    def id(self) -> bytes:
        """The Redis stream id, to resume from."""
        return b"%d-%d" % self.position[:2]


def position_of(text: str) -> Position:
    """Return the position of a stream id that a client sends.

    Raises:
        InvalidRequest: it is not a stream id.
    """
    found = _ID.match(text)
    if found is None:
        raise InvalidRequest(f"Invalid event id {text[:100]}", field="since")
    return int(found[1]), int(found[2] or 0)


class Bookmark:
    """Positions in the events of several queues as one text. It holds a checksum of each queue's name, which keeps it
    short and lets a caller come back for other queues.
    """

    def __init__(self, places: Mapping[int, Position] | None = None, everywhere: Position | None = None) -> None:
        self._places: dict[int, Position] = dict(places or {})
        self._everywhere = everywhere

    @classmethod
    def read(cls, text: str) -> Bookmark:
        """Read a bookmark that a client sends, or the id of one event (`0`), which is then the position in all queues.

        Raises:
            InvalidRequest: it is neither.
        """
        if _ID.match(text):
            return cls(everywhere=position_of(text))
        try:
            packed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            return cls(_PLACES.decode(packed))
        except (binascii.Error, ValueError, msgspec.DecodeError) as exc:
            raise InvalidRequest(f"Invalid event id {text[:100]}", field="since") from exc

    def of(self, queue: str) -> Position | None:
        """Return the position in a queue's events; None if there is none."""
        return self._places.get(zlib.crc32(queue.encode()), self._everywhere)

    def move(self, queue: str, position: Position) -> None:
        """Set the position in a queue's events."""
        self._places[zlib.crc32(queue.encode())] = position[0], position[1]

    def text(self) -> bytes:
        """Return the bookmark as a text."""
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self._places)).rstrip(b"=")


_Count = Annotated[int, Meta(ge=0)]
_PLACES = msgspec.msgpack.Decoder(dict[int, tuple[_Count, _Count]])
