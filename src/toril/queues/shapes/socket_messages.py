"""The shapes of WebSocket messages, for the OpenAPI document. Tests compare the messages with them."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class SocketAnswer(Struct):
    """The answer to the message with this id: `data` has the result as `ok`, if there is one; `err` is an error."""

    id: Any
    data: dict[str, Any]
    err: dict[str, Any] | UnsetType = UNSET


class SocketEvent(Struct):
    """An event, and the arguments that BullMQ's QueueEvents calls its listeners with."""

    event: str
    args: list[Any]


class SocketEventMessage(Struct):
    """An event on a socket, numbered from 0."""

    id: int
    data: SocketEvent


class SocketWork(Struct):
    """`process` brings a job: its data, or with `payload=job` the whole job and its lock token."""

    type: Literal["process", "cancel", "drain", "pong"]
    payload: Any | UnsetType = UNSET
    reason: Literal["timeout", "lease_lost"] | UnsetType = UNSET


class SocketWorkMessage(Struct):
    """A message to a worker on a socket."""

    data: SocketWork
    id: int | UnsetType | None = UNSET


class SocketReply(Struct):
    """A report of a worker on a socket. A result ends the job with this id; progress and log lines do not. `later`
    hands the job over to be settled by its lock token within so many milliseconds; `snooze` puts it off, and spends no
    attempt.
    """

    result: Any | UnsetType = UNSET
    progress: Any | UnsetType = UNSET
    log: str | UnsetType = UNSET
    later: int | UnsetType = UNSET
    snooze: int | UnsetType = UNSET
    type: Literal["stop", "ping"] | UnsetType = UNSET


class SocketReplyMessage(Struct):
    """A worker's message. `err` is a text, or an object with `message`, `stack`, `unrecoverable` and `retryIn`."""

    id: int | UnsetType = UNSET
    data: SocketReply | UnsetType | None = UNSET
    err: str | dict[str, Any] | UnsetType = UNSET
