"""`/ws/queues/{queue}/events`: what happens to a queue and its jobs, chosen by name."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from toril.core.access import Right
from toril.core.commands import request_id, shown
from toril.core.errors import InvalidRequest
from toril.core.event import GAP, Event, Position, position_of
from toril.core.job import json_unless_given
from toril.core.ports.jobs import EventFeed
from toril.core.queue_name import NameRules
from toril.core.redaction import event_without_secrets
from toril.gateway import shapes
from toril.gateway.description import Parameter, SocketAbout
from toril.gateway.routing import Access, Request, Serve, SocketRoute
from toril.gateway.sockets.queue import refusal
from toril.gateway.sockets.socket import GOING_AWAY, Socket

MAX_NAMES = 100


class Subscription(Struct, frozen=True, forbid_unknown_fields=True):
    """Listen for these names too, or no more."""

    fn: Literal["on", "off"]
    args: list[str]


class SubscriptionFrame(Struct, frozen=True):
    """A message of a listener."""

    data: Subscription
    id: Raw = json_unless_given(b"")


_FRAME = msgspec.json.Decoder(SubscriptionFrame)


class EventSocketRoutes:
    """Tells listeners on sockets what happens."""

    def __init__(self, feed: EventFeed, *, names: NameRules) -> None:
        self._feed = feed
        self._names = names

    def routes(self) -> list[SocketRoute]:
        """The routes of this module."""
        about = SocketAbout(
            SubscriptionFrame,
            shapes.SocketEventMessage,
            (
                Parameter("events", str, "The names to listen for, with commas"),
                Parameter("since", str, "Go on behind this event"),
            ),
        )
        return [SocketRoute("/ws/queues/{queue}/events", Access.TOKEN, self.open, Right.EVENTS_READ, about=about)]

    async def open(self, request: Request) -> Serve:
        """Check what is asked for; what serves the socket."""
        queue = request.segment(2)
        self._names.check(queue)
        query = request.query()
        names = {name for name in query.get("events", "").split(",") if name}
        since = position_of(query["since"]) if query.get("since") else None
        return lambda socket: self._serve(socket, request, names, since)

    async def _serve(self, socket: Socket, request: Request, names: set[str], since: Position | None) -> None:
        queue = request.segment(2)
        async with self._feed.follow(queue, since) as follower, asyncio.TaskGroup() as tasks:

            async def tell() -> None:
                number = 0
                while events := await follower.batch():
                    for event in events:
                        if event.name in names or event.name == GAP:
                            await socket.send(
                                b'{"id":%d,"data":{"event":%b}}' % (number, _shown(event, hide=request.hides(queue)))
                            )
                            number += 1
                await socket.close(GOING_AWAY, "shutting down")

            telling = tasks.create_task(tell())
            while (message := await socket.receive()) is not None:
                await socket.send(_subscribed(message, names))
            telling.cancel()


def _shown(event: Event, *, hide: bool) -> bytes:
    """Return the event's name, and the arguments that BullMQ's QueueEvents calls its listeners with."""
    name = msgspec.json.encode(event.name)
    if event.name == "drained":
        return b'%b,"args":["%b"]' % (name, event.id)
    data = event_without_secrets(event.data) if hide else event.data
    return b'%b,"args":[%b,"%b"]' % (name, data, event.id)


def _subscribed(message: bytes, names: set[str]) -> bytes:
    """Change what is listened for; the answer says what that is now."""
    try:
        frame = _FRAME.decode(message)
        message.decode()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return refusal(request_id(message), InvalidRequest(f"Invalid message {shown(message)}"))
    number = bytes(frame.id) or b"null"
    if frame.data.fn == "off":
        names.difference_update(frame.data.args)
    elif len(names.union(frame.data.args)) > MAX_NAMES:
        return refusal(number, InvalidRequest(f"At most {MAX_NAMES} events can be listened for"))
    else:
        names.update(frame.data.args)
    return b'{"id":%b,"data":{"ok":%b}}' % (number, msgspec.json.encode(sorted(names)))
