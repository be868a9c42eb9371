"""The options of a job as BullMQ writes them to Redis, with some names shortened.

`toril.core.stored_job` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bullmq.job import optsEncodeMap

_TELEMETRY = {"metadata": "tm", "omitContext": "omc"}
_CHANGED = frozenset({*optsEncodeMap, "telemetry"})


def shortened(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options with the names by which BullMQ stores them."""
    if _CHANGED.isdisjoint(options):
        return options
    stored = {optsEncodeMap.get(name, name): value for name, value in options.items() if name != "telemetry"}
    for name, value in options.get("telemetry", {}).items():
        stored[_TELEMETRY[name]] = value
    return stored
