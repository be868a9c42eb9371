"""The answer that a URL of the inspector asks for: `?status=503&delay=2s&body=…`. Other parameters are ignored."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from toril.core.errors import InvalidRequest
from toril.core.integers import whole_number
from toril.core.times import parse_duration_s

MAX_DELAY_S = 60.0
_STATUSES = (200, 599)
_WITHOUT_BODY = frozenset({204, 205, 304})
_is_json = msgspec.json.Decoder(msgspec.Raw).decode


class PrescribedAnswer(Struct, frozen=True):
    """A status, a delay and a body. `body` is None where the query has none."""

    status: int = 200
    delay_s: float = 0.0
    body: bytes | None = None

    def content(self, usual: bytes) -> bytes:
        """Return the body to send; `usual` is sent where the query has none."""
        if self.status in _WITHOUT_BODY:
            return b""
        return usual if self.body is None else self.body


def read_answer(query: dict[str, str]) -> PrescribedAnswer:
    """Return the answer that a query asks for.

    Raises:
        InvalidRequest: the status or the delay is none that the inspector gives.
    """
    status = whole_number(query.get("status", "200"), *_STATUSES)
    if status is None:
        least, most = _STATUSES
        raise InvalidRequest(f"Invalid status, must be a whole number from {least} to {most}", field="status")
    try:
        delay_s = parse_duration_s(query.get("delay", "0"))
    except ValueError:
        delay_s = -1.0
    if not 0 <= delay_s <= MAX_DELAY_S:
        raise InvalidRequest(f"Invalid delay, must be a duration up to {MAX_DELAY_S:g}s, such as 2s", field="delay")
    body = query.get("body")
    return PrescribedAnswer(status, delay_s, None if body is None else body.encode())


def is_json(body: bytes) -> bool:
    """Return True if a body is JSON, which it is then sent as; it is plain text otherwise."""
    try:
        _is_json(body)
        body.decode()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True
