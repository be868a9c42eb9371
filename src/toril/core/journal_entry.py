"""What a journal has noted of a lease: the attempt under way, as the ledger has it."""

from __future__ import annotations

from msgspec import Struct

from toril.core.blob import StreamedBody
from toril.core.delivery import Begun, End
from toril.core.lease import Lease


class Entry(Struct, eq=False):
    """What a journal has prepared for an attempt: the ledger's row, the body (None: there is none), the signature.

    `ending` is what came of it, once that is known and not recorded yet.
    """

    begun: Begun
    body: bytes | StreamedBody | None
    signature: bytes = b""
    ending: End | None = None


def entry_of(lease: Lease) -> Entry | None:
    """Return what was noted of a lease; None while no attempt is under way."""
    return lease.entry if isinstance(lease.entry, Entry) else None
