"""Says on the terminal why a command cannot go on: what went wrong in its task groups, one line each."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from toril.core.errors import StoreError


def tell_causes(group: BaseExceptionGroup[StoreError]) -> None:
    """Print each cause once, however often it happened."""
    for cause in dict.fromkeys(_causes(group)):
        print(f"toril: {cause}", file=sys.stderr)


def _causes(group: BaseExceptionGroup[StoreError]) -> Iterator[str]:
    """Return what went wrong, one line each, however deep in task groups it happened."""
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _causes(exc)
        else:
            yield " ".join(exc.message.split())
