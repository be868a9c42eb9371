"""Server-Sent Events: the text of an event, and the heartbeat of a silent stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

SSE = b"text/event-stream;charset=utf-8"
"""The content type."""
HEARTBEAT_S = 15.0
"""How long a stream may be silent: proxies between here and the listener close what is silent for a minute."""
_HEARTBEAT = b":\n\n"
_NO_BREAKS = str.maketrans("\r\n", "  ")

Found = TypeVar("Found")


def event_text(name: str, data: bytes, place: bytes | None = None) -> bytes:
    """Return one event as text; with a `place`, a reader can resume after it.

    Anybody may add to BullMQ's streams: a name may hold a line break, and so may JSON, between its values. They become
    spaces.
    """
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\n", b" ").replace(b"\r", b" ")
    head = b"" if place is None else b"id: %b\n" % place
    return b"%bevent: %b\ndata: %b\n\n" % (head, name.translate(_NO_BREAKS).encode(), data)


def first_text(place: bytes) -> bytes:
    """Return the retry time and the id to resume from: the connection may break before the first event."""
    return b"retry: 1000\nid: %b\n\n" % place


async def event_stream(
    first: bytes | None, following: Callable[[], Awaitable[bytes | None]]
) -> AsyncGenerator[bytes, None]:
    """Yield the texts of a stream: the first, if there is one, and what `following` returns until that is None. Where
    that is empty, it is a heartbeat.
    """
    if first is not None:
        yield first
    while (text := await following()) is not None:
        yield text or _HEARTBEAT


async def before_heartbeat(source: Callable[[], Awaitable[Found]]) -> Found | None:
    """Return what a source has next; None if nothing comes before a heartbeat is due."""
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            return await source()
    except TimeoutError:
        return None
