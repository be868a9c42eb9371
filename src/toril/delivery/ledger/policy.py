"""What an operator can set about the ledger."""

from __future__ import annotations

from msgspec import Struct


class LedgerPolicy(Struct, frozen=True, kw_only=True):
    """The ledger's URL: `postgresql://…`, `sqlite:///path` (an absolute one has four slashes), or `none`, Redis."""

    url: str = "sqlite:///toril-ledger.sqlite3"
