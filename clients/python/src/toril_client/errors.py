"""What can go wrong.

TorilError            the server refused, or cannot be reached; `code` and `status` say why
└── JobFailed         the job whose result was waited for has failed
Unrecoverable         raised by a worker's function: fail the job, though attempts are left
RetryIn               raised by a worker's function: try again after so long, instead of the job's backoff
"""

from __future__ import annotations


class TorilError(Exception):
    """The server refused, or cannot be reached (`status` is 0 then, and `code` is `unreachable`)."""

    def __init__(self, message: str, code: str = "unreachable", status: int = 0) -> None:
        super().__init__(f"{message} ({code})")
        self.message = message
        self.code = code
        self.status = status


class JobFailed(TorilError):
    """The job has failed; `message` is its failedReason."""


class Unrecoverable(Exception):
    """Fail the job at once."""


class RetryIn(Exception):
    """Try the job again after `seconds`, if it has attempts left."""

    def __init__(self, seconds: float, message: str = "to be tried again") -> None:
        super().__init__(message)
        self.seconds = seconds
