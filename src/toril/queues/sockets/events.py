"""`/ws/queues/{queue}/events`: sends the events of a queue that the listener has named."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from toril.bullmq.ports.jobs import EventFeed
from toril.bullmq.rules.event import GAP, Event, Position, position_of
from toril.bullmq.rules.json_values import json_unless_given
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.errors import InvalidRequest
from toril.core.redaction import Redaction
from toril.queues.rules.commands import request_id, shown
from toril.queues.shapes import socket_messages
from toril.queues.sockets.queue import refusal
from toril.web.openapi.description import Parameter, SocketAbout
from toril.web.routing import SocketRoute
from toril.web.websocket import GOING_AWAY, WebSocket

MAX_NAMES = 100


class Subscription(Struct, frozen=True, forbid_unknown_fields=True):
    """Start or stop listening for events with these names."""

    fn: Literal["on", "off"]
    args: list[str]


class SubscriptionFrame(Struct, frozen=True):
    """A message of a listener."""

    data: Subscription
    id: Raw = json_unless_given(b"")


_FRAME = msgspec.json.Decoder(SubscriptionFrame)


class EventSocketRoutes:
    """The route of sockets that listen for events."""

    def __init__(self, feed: EventFeed, *, names: NameRules) -> None:
        self._feed = feed
        self._names = names

    def routes(self) -> list[SocketRoute]:
        """Return the routes."""
        about = SocketAbout(
            SubscriptionFrame,
            socket_messages.SocketEventMessage,
            (
                Parameter("events", str, "The names of the events to listen for, with commas"),
                Parameter("since", str, "Begin after this event"),
            ),
        )
        return [SocketRoute("/ws/queues/{queue}/events", self.tell, right=Right.EVENTS_READ, about=about)]

    async def tell(self, socket: WebSocket) -> None:
        """Receive the events of a queue over a WebSocket."""
        queue = socket.queue
        self._names.check(queue)
        query = socket.query()
        names = {name for name in query.get("events", "").split(",") if name}
        since = position_of(query["since"]) if query.get("since") else None
        await socket.serve(lambda: self._tell(socket, names, since))

    async def _tell(self, socket: WebSocket, names: set[str], since: Position | None) -> None:
        queue = socket.queue
        async with self._feed.follow(queue, since) as follower, asyncio.TaskGroup() as tasks:

            async def tell() -> None:
                number = 0
                while events := await follower.batch():
                    for event in events:
                        if event.name in names or event.name == GAP:
                            await socket.send_message(
                                b'{"id":%d,"data":{"event":%b}}' % (number, _shown(event, hide=socket.hides(queue)))
                            )
                            number += 1
                await socket.close(GOING_AWAY, "shutting down")

            telling = tasks.create_task(tell())
            while (message := await socket.receive_message()) is not None:
                await socket.send_message(_subscribed(message, names))
            telling.cancel()


def _shown(event: Event, *, hide: Redaction | None) -> bytes:
    """Return the event's name, and the arguments that BullMQ's QueueEvents calls its listeners with."""
    name = msgspec.json.encode(event.name)
    if event.name == "drained":
        return b'%b,"args":["%b"]' % (name, event.id)
    data = hide.event(event.data) if hide else event.data
    return b'%b,"args":[%b,"%b"]' % (name, data, event.id)


def _subscribed(message: bytes, names: set[str]) -> bytes:
    """Subscribe or unsubscribe; return the answer, which lists the names that are now subscribed."""
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
