"""For web handlers that toril pushes jobs to: verify and read the request, report, answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from toril_client import calls
from toril_client.client import Client
from toril_client.errors import TorilError
from toril_client.jobs import Job
from toril_client.signing import Headers, verify

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


@dataclass(frozen=True)
class PushedJob:
    """A job that came in a request. Its lock token opens its progress and its log while it is in flight."""

    job: Job
    token: str
    queue: str

    @classmethod
    def from_body(cls, body: bytes) -> PushedJob:
        """Read the body of a request.

        Raises:
            TorilError: it is no pushed job (code `invalid_request`); answer with 400.
        """
        try:
            pushed = json.loads(body)
            job = Job.from_json(pushed["job"])
            token, queue = pushed["token"], pushed["job"]["queueQualifiedName"].rpartition(":")[2]
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise TorilError("the request holds no pushed job", "invalid_request", 400) from exc
        if not isinstance(token, str) or not queue:
            raise TorilError("the request holds no pushed job", "invalid_request", 400)
        return cls(job, token, queue)

    @classmethod
    def verified(cls, body: bytes, headers: Headers, secrets: str | Iterable[str]) -> PushedJob:
        """Read the body of a request that toril signed with one of these secrets within the last five minutes.

        Raises:
            TorilError: it did not (code `unauthorized`, status 401), or it is no pushed job (`invalid_request`, 400);
                answer with the error's status.
            ValueError: there is no secret, or one is not `whsec_` and 24 to 64 bytes in Base64.
        """
        verify(body, headers, secrets)
        return cls.from_body(body)

    def progress(self, url: str, value: Any) -> None:
        """Report how far the job is, to the toril at this URL."""
        with Client(url, self.token) as client:
            client.call(calls.progress(self.queue, self.job.id, value))

    def log(self, url: str, line: str) -> None:
        """Append a line to the job's log."""
        with Client(url, self.token) as client:
            client.call(calls.log(self.queue, self.job.id, line))

    @staticmethod
    def result(value: Any) -> Answer:
        """The answer that completes the job."""
        return 200, {"content-type": "application/json"}, json.dumps(value).encode()

    @staticmethod
    def failure(message: str, status: int = 500) -> Answer:
        """The answer that fails the attempt. The status' reason phrase becomes the failedReason, the body its trace."""
        return status, {"content-type": "text/plain; charset=utf-8"}, message.encode()
