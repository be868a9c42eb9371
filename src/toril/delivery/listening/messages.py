"""The messages between a gateway and a listener: a request to make, and what came of it. Bodies are in base64."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from toril.core.destination import OutboundRequest
from toril.core.errors import InvalidRequest
from toril.core.http.headers import is_header_name, is_header_value
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, TimedOut

_LONGEST_TEXT = 1000


class ListenedRequest(Struct):
    """A request to make. `path` is what follows the URL, null if nothing does; `body` is null if there is none."""

    job_id: str
    method: str
    path: str | None
    headers: list[tuple[str, str]]
    body: bytes | None
    timeout_ms: int


class ListenedWork(Struct):
    """`deliver` brings a request, `cancel` calls one off."""

    type: Literal["deliver", "cancel"]
    payload: ListenedRequest | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class ListenedWorkMessage(Struct):
    """A message to a listener."""

    id: int
    data: ListenedWork


class ListenedAnswer(Struct):
    """The answer of the endpoint."""

    status: int
    reason: str = ""
    headers: list[tuple[str, str]] = []
    body: bytes = b""
    truncated: bool = False


class ListenedFailure(Struct):
    """Why there is no answer: the connection was not made, it broke, or the time was over."""

    kind: Literal["connect", "cut", "timeout"]
    code: str = ""
    detail: str = ""


class ListenedReply(Struct):
    """A listener's message: the answer, or why there is none."""

    id: int
    data: ListenedAnswer | UnsetType = UNSET
    err: ListenedFailure | UnsetType = UNSET


_REPLY = msgspec.json.Decoder(ListenedReply)
_encode = msgspec.json.Encoder().encode


def deliver_message(number: int, request: OutboundRequest, body: bytes) -> bytes:
    """Return the message that brings a request of a `ListenedTarget`."""
    line, *lines = request.head.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ", 2)
    headers = [(name, value) for name, _, value in (one.partition(": ") for one in lines if one)]
    bodiless = not any(name.lower() == "content-length" for name, _ in headers)
    payload = ListenedRequest(
        job_id=request.job_id.decode(errors="replace"),
        method=method,
        path=target.removeprefix("*") or None,
        headers=[(name, value) for name, value in headers if name.lower() not in ("host", "content-length")],
        body=None if bodiless else body,
        timeout_ms=max(1, round(request.timeout_s * 1000)),
    )
    return _encode(ListenedWorkMessage(number, ListenedWork("deliver", payload)))


def cancel_message(number: int, reason: str) -> bytes:
    """Return the message that calls a request off."""
    return _encode(ListenedWorkMessage(number, ListenedWork("cancel", reason=reason)))


def read_listened_reply(message: bytes) -> ListenedReply:
    """Read a listener's message.

    Raises:
        InvalidRequest: it is none, or holds what no HTTP answer could.
    """
    try:
        reply = _REPLY.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"The message is no reply: {exc}") from exc
    if (reply.data is UNSET) == (reply.err is UNSET):
        raise InvalidRequest("A reply has either data or err")
    if isinstance(reply.data, ListenedAnswer):
        _check(reply.data)
    return reply


def _check(answer: ListenedAnswer) -> None:
    if not 200 <= answer.status <= 599:
        raise InvalidRequest(f"No answer has the status {answer.status}", field="status")
    try:
        sound = is_header_value(answer.reason.encode("latin-1")) and all(
            is_header_name(name.encode("ascii")) and is_header_value(value.encode("latin-1"))
            for name, value in answer.headers
        )
    except UnicodeEncodeError:
        sound = False
    if not sound:
        raise InvalidRequest("The reason or a header could not stand in an HTTP answer", field="headers")


def outcome_of(reply: ListenedReply, duration_s: float, most_bytes: int) -> Outcome:
    """Return what became of an attempt; a body over `most_bytes` is cut off, as that of any target."""
    if isinstance(reply.data, ListenedAnswer):
        answer = reply.data
        return Answered(
            answer.status,
            answer.reason,
            [(name.encode("ascii"), value.encode("latin-1")) for name, value in answer.headers],
            answer.body[:most_bytes],
            duration_s,
            truncated=answer.truncated or len(answer.body) > most_bytes,
        )
    failure = reply.err
    if not isinstance(failure, ListenedFailure):
        raise TypeError("a reply has either data or err")
    code, detail = failure.code[:_LONGEST_TEXT], failure.detail[:_LONGEST_TEXT]
    match failure.kind:
        case "connect":
            return ConnectFailed(code or "ECONNREFUSED", detail, duration_s)
        case "cut":
            return CutOff(code or "ECONNRESET", detail, duration_s)
        case "timeout":
            return TimedOut("answer", duration_s)


def failure_of(outcome: Outcome) -> ListenedFailure:
    """Return how a listener tells that there was no answer."""
    match outcome:
        case ConnectFailed(code=code, detail=detail):
            return ListenedFailure("connect", code, detail)
        case CutOff(code=code, detail=detail):
            return ListenedFailure("cut", code, detail)
        case TimedOut():
            return ListenedFailure("timeout")
        case _:
            raise TypeError("there was an answer")


def reply_message(number: int, answered: ListenedAnswer | ListenedFailure) -> bytes:
    """Return a listener's message."""
    if isinstance(answered, ListenedAnswer):
        return _encode(ListenedReply(number, data=answered))
    return _encode(ListenedReply(number, err=answered))
