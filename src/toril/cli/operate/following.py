"""Follows the events of queues over Server-Sent Events, reconnecting after what was read last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from toril.cli.operate.api import StreamedEvent
from toril.cli.operate.faults import GatewayRefused, GatewayUnreachable
from toril.cli.operate.operator import Operator

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_PASSING = frozenset({429, 500, 502, 503, 504})


def followed(
    op: Operator, path: str, query: dict[str, str | int | None], connected: Callable[[], None], *, every: bool = False
) -> Iterator[StreamedEvent]:
    """Yield events without an end; the caller stops.

    Args:
        connected: is called each time when the gateway has begun to tell.
        every: yield heartbeats too.

    Raises:
        GatewayRefused: the gateway will not tell, however often it is asked.
    """
    after, pause_s, first = "", _FIRST_PAUSE_S, True
    while True:
        try:
            began = False
            for event in op.api.stream("GET", path, query=query, after=after):
                if not began:
                    began, first, pause_s = True, False, _FIRST_PAUSE_S
                    connected()
                after = event.id or after
                if event.name or every:
                    yield event
            why = "the gateway ended the stream"
        except GatewayUnreachable as exc:
            if first:
                raise
            why = exc.message
        except GatewayRefused as exc:
            if first or exc.status not in _PASSING:
                raise
            why = exc.message
        op.out.note(f"{why}; connects again")
        time.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)


def fields_of(event: StreamedEvent) -> dict[str, Any]:
    """Return the fields of an event; none if it has other data."""
    try:
        found = msgspec.json.decode(event.data)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}
