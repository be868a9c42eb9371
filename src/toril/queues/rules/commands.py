"""The commands of the queue socket: a typed union by `fn`, decoded in one step.

A frame is `{"id": …, "data": {"fn": …, "args": […]}}`; what `args` holds depends on `fn`. No attribute is looked up by
a name that a client sent.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from toril.bullmq.rules.job import JobSpec
from toril.bullmq.rules.job_decoding import decode_jobs
from toril.bullmq.rules.json_values import json_unless_given, require_utf8
from toril.core.errors import InvalidRequest

STATES = ("waiting", "paused", "active", "completed", "failed", "delayed", "prioritized", "waiting-children")
MAX_JOBS = 10_000
_SHOWN_BYTES = 1000


class _Args(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An array of arguments; trailing ones with a default may be missing."""


class _AddArgs(_Args, frozen=True):
    name: Raw
    data: Raw
    opts: Raw = json_unless_given(b"null")


class _JobsArgs(_Args, frozen=True):
    states: str | list[str]
    start: int | None = None
    end: int | None = None
    oldest_first: bool | None = None

    @property
    def window(self) -> tuple[int, int]:
        """Return the positions of the first and the last one, inclusive."""
        return self.start or 0, self.end or 0


class _LogsArgs(_Args, frozen=True):
    job_id: str
    start: int | None = None
    end: int | None = None

    @property
    def window(self) -> tuple[int, int]:
        """Return the positions of the first and the last one, inclusive."""
        return self.start or 0, -1 if self.end is None else self.end


class Add(Struct, frozen=True, tag_field="fn", tag="add", forbid_unknown_fields=True):
    """`add [name, data, opts]`."""

    args: _AddArgs

    def job(self) -> JobSpec:
        """Return the job, checked as in REST."""
        args = self.args
        parts = bytes(args.name), bytes(args.data), bytes(args.opts)
        (job,) = decode_jobs(b'[{"name":%b,"data":%b,"opts":%b}]' % parts)
        return job


class Pause(Struct, frozen=True, tag_field="fn", tag="pause", forbid_unknown_fields=True):
    """`pause []`."""

    args: tuple[()] = ()


class Resume(Struct, frozen=True, tag_field="fn", tag="resume", forbid_unknown_fields=True):
    """`resume []`."""

    args: tuple[()] = ()


class GetJobs(Struct, frozen=True, tag_field="fn", tag="getJobs", forbid_unknown_fields=True):
    """`getJobs [state or states, start, end (inclusive), oldest first]`."""

    args: _JobsArgs

    @property
    def states(self) -> list[str]:
        """Return the states that are asked for, each once."""
        asked = self.args.states
        return checked_states([asked] if isinstance(asked, str) else asked)


class GetJobCounts(Struct, frozen=True, tag_field="fn", tag="getJobCounts", forbid_unknown_fields=True):
    """`getJobCounts [states…]`; all eight where none is named."""

    args: list[str] = []

    @property
    def states(self) -> list[str]:
        """Return the states that are asked for, each once."""
        return checked_states(self.args or list(STATES))


class GetJobLogs(Struct, frozen=True, tag_field="fn", tag="getJobLogs", forbid_unknown_fields=True):
    """`getJobLogs [id, start, end (inclusive; -1 is the last)]`."""

    args: _LogsArgs


class GetWorkers(Struct, frozen=True, tag_field="fn", tag="getWorkers", forbid_unknown_fields=True):
    """`getWorkers []`."""

    args: tuple[()] = ()


Command = Add | Pause | Resume | GetJobs | GetJobCounts | GetJobLogs | GetWorkers


class Frame(Struct, frozen=True):
    """The `id` of a message: any JSON, which is sent back as it came."""

    id: Raw = json_unless_given(b"null")


class CommandFrame(Struct, frozen=True):
    """A message that holds a command."""

    data: Command
    id: Raw = json_unless_given(b"null")


_FRAME = msgspec.json.Decoder(Frame)
_COMMAND_FRAME = msgspec.json.Decoder(CommandFrame)


def read_command(message: bytes) -> tuple[bytes, Command]:
    """Return the id (as JSON text) and the command of a message.

    Raises:
        InvalidRequest: it holds no command; `request_id` finds the id.
    """
    try:
        if not message.isascii():
            require_utf8(message)
        frame = _COMMAND_FRAME.decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"Invalid message {shown(message)}") from exc
    return bytes(frame.id), frame.data


def request_id(message: bytes) -> bytes:
    """Return the id of a message as JSON text; `null` if there is none that can be read."""
    try:
        require_utf8(message)
        return bytes(_FRAME.decode(message).id)
    except (msgspec.DecodeError, RecursionError, InvalidRequest):
        return b"null"


def shown(message: bytes) -> str:
    """Return the beginning of a message, for an error text; not all of it, so that nothing is amplified."""
    more = "" if len(message) <= _SHOWN_BYTES else f"… ({len(message)} bytes)"
    return message[:_SHOWN_BYTES].decode(errors="replace") + more


def checked_states(states: list[str]) -> list[str]:
    """Return the states, each once; `wait` is another name for `waiting`.

    Raises:
        InvalidRequest: BullMQ has no such state.
    """
    wanted = ["waiting" if state == "wait" else state for state in states]
    for state in wanted:
        if state not in STATES:
            raise InvalidRequest(f"Invalid status: {state}")
    return list(dict.fromkeys(wanted))
