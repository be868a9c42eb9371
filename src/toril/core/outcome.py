"""What happened to one attempt. A value, never an exception: destinations judge it.

An outcome is `Answered` (by HTTP), `Replied` (over a socket), or one of the ways not to get an answer;
`match` over `Outcome` is exhaustive.
"""

from __future__ import annotations

from msgspec import Struct

from toril.core.blob import BlobRef
from toril.core.verdict import HandOver, Snooze

BODY_UNREADABLE = "ERR_BODY"
"""The code of an attempt that was cut off because its own body could not be read to the end."""


ERR_TLS = "ERR_TLS"
"""The code of a failure of TLS: a certificate that is not accepted by one of both sides, most likely."""

ERR_AUTH = "ERR_AUTH"
"""The code of a request that was not made because there is no access token for it."""

ERR_PROXY = "ERR_PROXY"
"""The code of a forward proxy that cannot be reached, or that refuses."""

FOREIGN_CODING = "ERR_TRANSFER_CODING"
"""The code of an answer whose body is in a transfer coding that is not undone here: it could not be passed on."""


class Answered(Struct):
    """The receiver sent a whole response. Header names are as sent; `reason` may be empty.

    `truncated`: the body was longer, and was cut off as the caller asked. A body that was too large to keep
    at hand is in the blob store (`blob`), and `body` is empty. `unreadable` says why a compressed body could not be
    unpacked for a request that wanted that; `body` is empty then, too.
    """

    status: int
    reason: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    duration_s: float
    truncated: bool = False
    blob: BlobRef | None = None
    unreadable: str = ""

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header, by its lower-case name; None if there is none."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None


class TimedOut(Struct):
    """The whole answer did not come in time; `phase` is `connect` or `answer`."""

    phase: str
    duration_s: float


class ConnectFailed(Struct):
    """A request that could not be made. `code` is an errno name (ECONNREFUSED), ENOTFOUND, EGRESS_DENIED, or ERR_TLS,
    ERR_AUTH or ERR_PROXY, where the way to the receiver has failed.

    `exhausted`: this machine had no descriptor, memory or port left for it, which says nothing of the receiver.
    """

    code: str
    detail: str
    duration_s: float
    exhausted: bool = False


class CutOff(Struct):
    """The connection broke, or what came was not HTTP, or the body was larger than allowed."""

    code: str
    detail: str
    duration_s: float


class WorkerError(Struct, frozen=True):
    """A failure that a worker reports. `retry_in_ms` replaces the job's backoff; it grants no further attempt."""

    message: str
    stack: str = ""
    unrecoverable: bool = False
    retry_in_ms: int | None = None


class Replied(Struct):
    """A worker on a socket is done with the job: `result` is JSON text, or `error` says why there is none.

    With `asks` the job has not ended: the worker settles it later, or wants it put off.
    """

    result: bytes
    error: WorkerError | None
    duration_s: float
    asks: HandOver | Snooze | None = None


_WAYS = {ERR_TLS: "tls_error", ERR_AUTH: "auth_error", ERR_PROXY: "proxy_error"}


def failure_of_the_way(outcome: Outcome) -> str | None:
    """Return `tls_error`, `auth_error` or `proxy_error` where one of these has ended an attempt; None elsewhere."""
    return _WAYS.get(outcome.code) if isinstance(outcome, (ConnectFailed, CutOff)) else None


def coding_refused(coding: bytes) -> str:
    """Return the error text for an answer in this transfer coding."""
    return f"The answer's body is in the transfer coding {coding[:100].decode('latin-1')}, where only chunked is read"


Outcome = Answered | TimedOut | ConnectFailed | CutOff | Replied
