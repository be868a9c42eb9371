"""What a worker on a socket sends: the end of a job, or, on the way there, progress and log lines.

A reply is `{"id": …, "data": {"result": …}}` or carries `err`, at the top or in `data`: an object with `message`, or a
text. A worker that gets whole jobs may also send `{"id": …, "data": {"progress": …}}` and `{"log": "…"}`, and
`{"data": {"type": "stop"}}` when it wants no more.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from toril.core.errors import InvalidRequest
from toril.core.job import MAX_SAFE_INTEGER, require_utf8
from toril.core.outcome import WorkerError

NEITHER = "The worker sent neither a result nor an error"


class Done(Struct, frozen=True):
    """The job is done: its result as JSON text, or what went wrong."""

    result: bytes
    error: WorkerError | None


class Progress(Struct, frozen=True):
    """How far the job is, as JSON text."""

    value: bytes


class LogLine(Struct, frozen=True):
    """A line for the job's log."""

    line: str


Report = Done | Progress | LogLine


class _Data(Struct, frozen=True):
    result: Raw | UnsetType = UNSET
    err: Raw | UnsetType = UNSET
    progress: Raw | UnsetType = UNSET
    log: Raw | UnsetType = UNSET
    message: Raw | UnsetType = UNSET
    stack: Raw | UnsetType = UNSET


class _Reply(Struct, frozen=True):
    id: Raw
    data: _Data | UnsetType | None = UNSET
    err: Raw | UnsetType = UNSET


class _StopData(Struct, frozen=True):
    type: Literal["stop"]


class _StopFrame(Struct, frozen=True):
    data: _StopData


class _PingData(Struct, frozen=True):
    type: Literal["ping"]


class _PingFrame(Struct, frozen=True):
    data: _PingData


_REPLY = msgspec.json.Decoder(_Reply)
_STOP = msgspec.json.Decoder(_StopFrame)
_PING = msgspec.json.Decoder(_PingFrame)
_NUMBER_FIRST = re.compile(rb'\s*\{\s*"id"\s*:\s*("?)(\d{1,15})\1\s*,')
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,14})\Z", re.ASCII)
# BullMQ Proxy's clients always send an `err`: it is none where JavaScript takes it for false.
_NO_ERROR = frozenset({b"null", b'""', b"false", b"0"})


def read_reply(message: bytes, *, reports: bool) -> tuple[int, Report]:
    """The number of the job and what its worker says of it.

    Args:
        message: what came.
        reports: whether progress and log lines are understood, or only an end.

    Raises:
        InvalidRequest: it names no job.
    """
    if not message.isascii():
        require_utf8(message)
    try:
        reply = _REPLY.decode(message)
        number = _id(bytes(reply.id))
    except (msgspec.DecodeError, RecursionError, ValueError):
        return _number(message), _failed(None, None)
    data = reply.data or _Data()
    for err in (reply.err, data.err):
        # An error outdoes a result.
        if err is not UNSET and bytes(err) not in _NO_ERROR:
            return number, _failed(_value(err), None)
    if data.result is not UNSET:
        return number, Done(bytes(data.result), None)
    if reports and data.progress is not UNSET:
        return number, Progress(bytes(data.progress))
    if reports and data.log is not UNSET:
        line = _value(data.log)
        if not isinstance(line, str):
            raise InvalidRequest("log must be a string")
        return number, LogLine(line)
    return number, _failed(_value(data.message), _value(data.stack))


def is_ping(message: bytes) -> bool:
    """Whether a worker says `{"data": {"type": "ping"}}`: it wants to hear that somebody is there."""
    return _is_told(message, b'"ping"', _PING)


def is_stop(message: bytes) -> bool:
    """Whether a worker says `{"data": {"type": "stop"}}`: it wants no more jobs and finishes those it has."""
    return _is_told(message, b'"stop"', _STOP)


def _is_told(message: bytes, word: bytes, told: msgspec.json.Decoder[Any]) -> bool:
    if word not in message:
        return False
    try:
        message.decode()
        told.decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _id(raw: bytes) -> int:
    """Return the number that is an `id`, also where it is written as a text, as the keys of a map in JavaScript are.

    Raises:
        ValueError: it is none.
    """
    return int(raw) if raw[:1] != b'"' else _from_text(msgspec.json.decode(raw))


def _from_text(text: str) -> int:
    if not _NUMBER.match(text):
        raise ValueError(text)
    return int(text)


def _number(message: bytes) -> int:
    """The number of a reply that is not what it should be: half a character in it, say, or nested too deeply."""
    try:
        reply = json.loads(message)
        number = reply.get("id") if isinstance(reply, dict) else None
        number = _from_text(number) if isinstance(number, str) else number
    except RecursionError:
        found = _NUMBER_FIRST.match(message)
        number = int(found[2]) if found else None
    except ValueError as exc:
        raise InvalidRequest("Invalid message: it names no job") from exc
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidRequest("Invalid message: it names no job")
    return number


def _value(raw: Raw | UnsetType) -> Any:
    if raw is UNSET:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def _failed(said: Any, stack: Any) -> Done:
    """An error as its worker words it; where it says nothing that can be read, we say that."""
    retry_in_ms: int | None = None
    unrecoverable = False
    if isinstance(said, dict):
        stack = said.get("stack")
        unrecoverable = said.get("unrecoverable") is True
        retry_in = said.get("retryIn")
        if isinstance(retry_in, (int, float)) and not isinstance(retry_in, bool) and 0 <= retry_in <= MAX_SAFE_INTEGER:
            retry_in_ms = int(retry_in)
        said = said.get("message")
    message = said if isinstance(said, str) else NEITHER
    shown = stack if isinstance(stack, str) else ""
    return Done(b"", WorkerError(message, shown, unrecoverable, retry_in_ms))
