"""A place in a walk through the jobs of some states, from which the walk continues; also as a cursor in a URL."""

from __future__ import annotations

import base64
import binascii

import msgspec
from msgspec import Struct

from toril.core.errors import InvalidRequest


class WalkPlace(Struct, frozen=True, array_like=True):
    """The place after a job: the index of the state in the walk, the job's id, its score and its position.

    Without a score and with nothing at 0 it is the beginning of that state. Of lists `position` counts the jobs before
    it, in the order of the walk; in sorted sets the score does.
    """

    state: int = 0
    after: bytes = b""
    score: bytes = b""
    position: int = 0

    def cursor(self) -> str:
        """Return the place as text for a URL."""
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")


def read_cursor(text: str, states: int) -> WalkPlace:
    """Read a text of `WalkPlace.cursor`, for a walk through this number of states.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        place = msgspec.msgpack.decode(
            base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True), type=WalkPlace
        )
        if place.score:
            float(place.score)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as exc:
        raise InvalidRequest(f"Invalid cursor {text[:100]}", field="cursor") from exc
    if not (0 <= place.state < states and 0 <= place.position < 2**53):
        raise InvalidRequest("The cursor is of another search", field="cursor")
    return place
