"""The one error tree. Each class has a stable code and an HTTP status; its docstring is its default message.

    TorilError
    ├── InvalidRequest              400  invalid_request
    │   ├── InvalidEnvelope         400  invalid_envelope
    │   └── InvalidWhere            400  invalid_where
    ├── Unauthorized                401  unauthorized
    │   └── WrongLockToken          401  wrong_lock_token
    ├── Forbidden                   403  forbidden
    ├── NotFound                    404  not_found
    │   ├── QueueNotFound           404  queue_not_found
    │   ├── JobNotFound             404  job_not_found
    │   ├── SchedulerNotFound       404  scheduler_not_found
    │   ├── WorkerNotFound          404  worker_not_found
    │   └── UnknownTarget           404  unknown_target
    ├── MethodNotAllowed            405  method_not_allowed
    ├── PayloadTooLarge             413  payload_too_large
    │   └── EnvelopeTooLarge        413  envelope_too_large
    ├── RequestTimeout              408  request_timeout
    ├── HeadTooLarge                431  head_too_large
    ├── UnknownTransferCoding       501  unknown_transfer_coding
    ├── StoreError                  500  store_error
    │   ├── StoreUnavailable        503  store_unavailable
    │   │   ├── ConnectionLost      503  store_unavailable
    │   │   ├── StoreTimeout        503  store_unavailable
    │   │   ├── CannotServe         503  store_unavailable
    │   │   ├── LedgerElsewhere     503  store_unavailable
    │   │   ├── LedgerUnavailable   503  store_unavailable
    │   │   │   └── LedgerMoved     503  store_unavailable
    │   │   └── BlobsUnavailable    503  store_unavailable
    │   │       └── FolderUnusable  503  store_unavailable
    │   ├── StoreRefused            500  store_refused
    │   │   ├── WrongKeyType        409  wrong_key_type
    │   │   └── RowRefused          500  store_refused
    │   └── BlobLost                500  blob_lost
    ├── ShuttingDown                503  shutting_down
    ├── TooManyConnections          503  too_many_connections
    ├── RateLimited                 429  rate_limited
    │   └── GroupFull               429  group_full
    ├── JobFailed                   422  job_failed
    ├── IdempotencyMismatch         422  idempotency_mismatch
    ├── NoResponse                  409  no_response
    ├── JobRefused                  409  wrong_state
    │   └── LeaseLost               409  lease_lost
    └── ConfigInvalid               422  config_invalid

Expected results of work (a refused connection, a timeout) are values, see `toril.core.outcome`; these are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar


class TorilError(Exception):
    """Something went wrong inside toril."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().partition("\n")[0])

    @property
    def message(self) -> str:
        """What is wrong, for the person who reads the answer."""
        return str(self.args[0])

    def details(self) -> dict[str, Any]:
        """Return the fields of the error beside its code and message."""
        return {}


class InvalidRequest(TorilError):
    """The request is not valid."""

    code = "invalid_request"
    status = 400

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field

    def details(self) -> dict[str, Any]:
        """Return the field that is not valid, if the error is about one."""
        return {} if self.field is None else {"field": self.field}


class InvalidEnvelope(InvalidRequest):
    """The envelope is not valid."""

    code = "invalid_envelope"


class InvalidWhere(InvalidRequest):
    """The search cannot be read."""

    code = "invalid_where"

    def __init__(self, message: str | None = None, *, at: int = 0) -> None:
        super().__init__(message, field="where")
        self.at = at

    def details(self) -> dict[str, Any]:
        """Return the character at which reading stopped, counted from 1."""
        return {**super().details(), "at": self.at + 1}


class Unauthorized(TorilError):
    """Unauthorized"""

    code = "unauthorized"
    status = 401


class WrongLockToken(Unauthorized):
    """Another token holds this job's lock"""

    code = "wrong_lock_token"


class Forbidden(TorilError):
    """Forbidden"""

    code = "forbidden"
    status = 403


class NotFound(TorilError):
    """Not found"""

    code = "not_found"
    status = 404


class QueueNotFound(NotFound):
    """Queue not found"""

    code = "queue_not_found"


class SchedulerNotFound(NotFound):
    """Scheduler not found"""

    code = "scheduler_not_found"


class JobNotFound(NotFound):
    """Job not found"""

    code = "job_not_found"


class WorkerNotFound(NotFound):
    """Worker not found"""

    code = "worker_not_found"


class UnknownTarget(NotFound):
    """No target has this name"""

    code = "unknown_target"


class MethodNotAllowed(TorilError):
    """This path has no such method; `Allow` names those that it has"""

    code = "method_not_allowed"
    status = 405

    def __init__(self, message: str | None = None, *, allowed: str = "") -> None:
        super().__init__(message)
        self.allowed = allowed


class PayloadTooLarge(TorilError):
    """The body is larger than this server takes."""

    code = "payload_too_large"
    status = 413


class EnvelopeTooLarge(PayloadTooLarge):
    """The envelope's body is larger than this server takes."""

    code = "envelope_too_large"


class RequestTimeout(TorilError):
    """The request did not come whole in time."""

    code = "request_timeout"
    status = 408


class HeadTooLarge(TorilError):
    """The request's head, or what stands around the chunks of its body, is larger than this server takes."""

    code = "head_too_large"
    status = 431


class UnknownTransferCoding(TorilError):
    """A body may come chunked, and in no other transfer coding; its own coding is said by Content-Encoding"""

    code = "unknown_transfer_coding"
    status = 501


class StoreError(TorilError):
    """Redis did not do what was asked."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """Redis cannot be reached. Nothing was written; try again."""

    code = "store_unavailable"
    status = 503
    retry_after_s: ClassVar[int] = 1


class ConnectionLost(StoreUnavailable):
    """The connection to Redis broke before the answer came. Whether the command ran is unknown."""


class StoreTimeout(StoreUnavailable):
    """Redis did not answer in time. Whether the command ran is unknown."""


class CannotServe(StoreUnavailable):
    """Redis answers, and cannot do what is asked now. Nothing was written; try again."""


class LedgerUnavailable(StoreUnavailable):
    """The ledger cannot be written or reached, so nothing was accepted. Try again."""

    def __init__(self, message: str | None = None, *, reason: str = "it does not answer") -> None:
        super().__init__(message)
        self.reason = reason
        """The cause in a few words that may be shown to everybody; the message is for the log."""


class LedgerElsewhere(StoreUnavailable):
    """The job is not in this instance's ledger, but other instances have other ledgers and may know it. Ask again."""


class LedgerMoved(LedgerUnavailable):
    """The ledger's file is no longer the one that was opened, so nothing is accepted. An operator has to check it."""


class BlobsUnavailable(StoreUnavailable):
    """The store of large bodies cannot be reached, or refuses. Try again."""


class FolderUnusable(BlobsUnavailable):
    """The folder of large bodies cannot be written. What it says may be told to callers."""


class StoreRefused(StoreError):
    """Redis refused the command."""

    code = "store_refused"


class WrongKeyType(StoreRefused):
    """A Redis key holds another type of value than BullMQ keeps there."""

    code = "wrong_key_type"
    status = 409


class RowRefused(StoreRefused):
    """The ledger refused what is in a row; the rows beside it may be sound."""


class BlobLost(StoreError):
    """A large body is missing from its store, or is not the one that was stored."""

    code = "blob_lost"


class ShuttingDown(TorilError):
    """This instance is shutting down and takes no new work."""

    code = "shutting_down"
    status = 503
    retry_after_s: ClassVar[int] = 1


class TooManyConnections(TorilError):
    """This instance has no connection to spare, try again."""

    code = "too_many_connections"
    status = 503
    retry_after_s: ClassVar[int] = 1


class RateLimited(TorilError):
    """Too many requests with this token."""

    code = "rate_limited"
    status = 429

    def __init__(self, message: str | None = None, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GroupFull(RateLimited):
    """The group has as many waiting jobs as it may have."""

    code = "group_full"


class JobFailed(TorilError):
    """The job has failed."""

    code, status = "job_failed", 422

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason or ""

    def details(self) -> dict[str, Any]:
        """Return the reason, under BullMQ's name."""
        return {"failedReason": self.reason}


class IdempotencyMismatch(TorilError):
    """Another envelope was accepted under this idempotency key."""

    code = "idempotency_mismatch"
    status = 422


class NoResponse(TorilError):
    """The target has never answered this job."""

    code = "no_response"
    status = 409


class JobRefused(TorilError):
    """The job is not in a state that allows this."""

    code = "wrong_state"
    status = 409

    def __init__(self, message: str | None = None, *, state: str | None = None) -> None:
        super().__init__(message)
        self.state = state

    def details(self) -> dict[str, Any]:
        """Return the state of the job, if it is known."""
        return {} if self.state is None else {"state": self.state}


class LeaseLost(JobRefused):
    """The lock of this job is no longer ours, so nothing was written."""

    code = "lease_lost"


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the first `TorilError` by itself where a task group ends with nothing else: no caller expects a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = only_toril_error(group)
        if error is None:
            raise
        raise error from group


def only_toril_error(exc: BaseException) -> TorilError | None:
    """Return the first `TorilError` of an exception that is nothing else, or a group of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return None if exc.split(TorilError)[1] is not None else only_toril_error(exc.exceptions[0])
    return exc if isinstance(exc, TorilError) else None


class ConfigInvalid(TorilError):
    """The configuration is not valid. All faults are listed, not only the first."""

    code = "config_invalid"
    status = 422

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults

    def details(self) -> dict[str, Any]:
        """Return all faults, one by one."""
        return {"faults": self.faults}
