"""What the journal attaches to a lease: the attempt under way."""

from __future__ import annotations

from msgspec import Struct

from toril.core.blob import StreamedBody
from toril.core.lease import Lease
from toril.delivery.rules.changes import Begun, End


class JournalEntry(Struct, eq=False):
    """An attempt under way: its row, its body (None: there is none) and its signature.

    `ending` is its end once that is known, until it is recorded.
    """

    begun: Begun
    body: bytes | StreamedBody | None
    signature: bytes = b""
    ending: End | None = None


def entry_of(lease: Lease) -> JournalEntry | None:
    """Return the entry of a lease; None while no attempt is under way."""
    return lease.entry if isinstance(lease.entry, JournalEntry) else None
