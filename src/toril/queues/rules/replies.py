"""The messages of a worker on a socket: the end of a job, progress and log lines.

A reply is `{"id": …, "data": {"result": …}}` or carries `err`, at the top or in `data`: an object with `message`, or a
text. A worker that gets whole jobs may also send `{"id": …, "data": {"progress": …}}` and `{"log": "…"}`, settle the
job later (`{"later": <ms>}`) or put it off (`{"snooze": <ms>}`), and stop getting jobs (`{"data": {"type": "stop"}}`).
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from toril.bullmq.rules.json_values import require_utf8, whole
from toril.core.errors import InvalidRequest
from toril.core.integers import MAX_SAFE_INTEGER
from toril.core.lease import MAX_LOCK_MS, MIN_LOCK_MS
from toril.core.outcome import WorkerError
from toril.core.verdict import HandOver, Snooze

NEITHER = "The worker sent neither a result nor an error"


class Done(Struct, frozen=True):
    """The end of a job: its result as JSON text, or its error; or what its worker asks for in place of an end."""

    result: bytes
    error: WorkerError | None
    asks: HandOver | Snooze | None = None


class Progress(Struct, frozen=True):
    """The progress of a job, as JSON text."""

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
    later: Raw | UnsetType = UNSET
    snooze: Raw | UnsetType = UNSET
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
# BullMQ Proxy's clients always send an `err`; it is no error if JavaScript counts it as false.
_NO_ERROR = frozenset({b"null", b'""', b"false", b"0"})


def read_reply(message: bytes, *, reports: bool) -> tuple[int, Report]:
    """Return the number of a job and its worker's message about it.

    Args:
        message: as it came.
        reports: True if progress, log lines and what is asked for are understood, too.

    Raises:
        InvalidRequest: it names no job, or asks for a time that is out of bounds.
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
        # An error counts before a result.
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
    if reports and data.later is not UNSET:
        return number, Done(b"", None, HandOver(_ms(data.later, "later", MIN_LOCK_MS)))
    if reports and data.snooze is not UNSET:
        return number, Done(b"", None, Snooze(_ms(data.snooze, "snooze", 1), "its worker puts it off"))
    return number, _failed(_value(data.message), _value(data.stack))


def is_ping(message: bytes) -> bool:
    """Return True for `{"data": {"type": "ping"}}`, by which a worker checks the connection."""
    return _is_frame(message, b'"ping"', _PING)


def is_stop(message: bytes) -> bool:
    """Return True for `{"data": {"type": "stop"}}`: the worker finishes its jobs and wants no others."""
    return _is_frame(message, b'"stop"', _STOP)


def _is_frame(message: bytes, word: bytes, decoder: msgspec.json.Decoder[Any]) -> bool:
    if word not in message:
        return False
    try:
        message.decode()
        decoder.decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _id(raw: bytes) -> int:
    """Return the number in an `id`, which may be a text, as the keys of a map in JavaScript are.

    Raises:
        ValueError: it is no number.
    """
    return int(raw) if raw[:1] != b'"' else _from_text(msgspec.json.decode(raw))


def _from_text(text: str) -> int:
    if not _NUMBER.match(text):
        raise ValueError(text)
    return int(text)


def _number(message: bytes) -> int:
    """Return the number of an invalid reply, which holds half a character, say, or is nested too deeply."""
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


def _ms(raw: Raw, field: str, least: int) -> int:
    value = whole(_value(raw), least, MAX_LOCK_MS)
    if value is None:
        raise InvalidRequest(f"{field} must be a number of milliseconds from {least} to {MAX_LOCK_MS}", field=field)
    return value


def _value(raw: Raw | UnsetType) -> Any:
    if raw is UNSET:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def _failed(said: Any, stack: Any) -> Done:
    """Return the end of a job that failed, with the error of its worker, or with our text if that cannot be read."""
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
