"""Encodes and decodes the envelopes and answers in a ledger's rows. An unreadable row affects no other."""

from __future__ import annotations

import msgspec

from toril.delivery.rules.delivery import Envelope, TargetResponse

UNREADABLE = Envelope(method="")
"""Stands for an envelope that cannot be read; it is never sent."""

pack = msgspec.msgpack.Encoder().encode
_read_envelope = msgspec.msgpack.Decoder(Envelope).decode
_read_response = msgspec.msgpack.Decoder(TargetResponse).decode


def unpack_envelope(packed: bytes) -> Envelope:
    """Return the envelope of a row, or `UNREADABLE`."""
    try:
        return _read_envelope(packed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNREADABLE


def unpack_response(packed: bytes | None) -> TargetResponse | None:
    """Return the answer of a row; None if it has none, or one that cannot be read."""
    try:
        return None if packed is None else _read_response(packed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
