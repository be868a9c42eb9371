"""Envelopes and answers as a ledger's rows hold them. A row that somebody else has written spoils itself alone."""

from __future__ import annotations

import msgspec

from toril.core.delivery import Envelope, RecordedResponse

UNREADABLE = Envelope(method="")
"""What stands for an envelope that cannot be read; it is never sent."""

pack = msgspec.msgpack.Encoder().encode
_read_envelope = msgspec.msgpack.Decoder(Envelope).decode
_read_response = msgspec.msgpack.Decoder(RecordedResponse).decode


def unpack_envelope(packed: bytes) -> Envelope:
    """Return the envelope of a row, or `UNREADABLE`."""
    try:
        return _read_envelope(packed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNREADABLE


def unpack_response(packed: bytes | None) -> RecordedResponse | None:
    """Return the answer of a row; None where it has none, or one that cannot be read."""
    try:
        return None if packed is None else _read_response(packed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
