"""The last requests that the inspector got: a bounded number of them, with a bounded number of bytes."""

from __future__ import annotations

import base64
from collections import deque
from typing import Any

from msgspec import Struct

from toril.core.http.headers import Header
from toril.core.integers import MAX_SAFE_INTEGER
from toril.core.times import moment_text

MAX_REQUESTS = 500
MAX_BODY_BYTES = 64 * 1024
"""How much of one body is kept."""
MAX_BYTES = 8 * 1024 * 1024
"""How much is kept in all: targets, headers, bodies and answers."""


class InspectedRequest(Struct, frozen=True):
    """A request, and its answer. `body` is the beginning of the request's, `body_bytes` its whole length."""

    number: int
    name: str
    at_s: float
    method: str
    target: str
    headers: tuple[Header, ...]
    body: bytes
    body_bytes: int
    status: int
    delay_s: float
    answer: bytes
    answer_type: str

    @property
    def kept_bytes(self) -> int:
        """How many bytes of it are kept."""
        return (
            len(self.target)
            + len(self.body)
            + len(self.answer)
            + sum(len(name) + len(value) for name, value in self.headers)
        )

    def shown(self) -> dict[str, Any]:
        """Return it as the API shows it. A body that is not UTF-8 is in Base64."""
        try:
            body = {"body": self.body.decode()}
        except UnicodeDecodeError:
            body = {"bodyBase64": base64.b64encode(self.body).decode()}
        return {
            "number": self.number,
            "name": self.name,
            "at": moment_text(self.at_s),
            "method": self.method,
            "target": self.target,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers],
            **body,
            "bodyBytes": self.body_bytes,
            "status": self.status,
            "delayMs": round(self.delay_s * 1000),
            "answer": self.answer.decode(errors="replace"),
            "answerType": self.answer_type,
        }


class InspectedRequests:
    """Keeps the last requests; the oldest ones go when there are too many, or too many bytes."""

    def __init__(self) -> None:
        self._kept: deque[InspectedRequest] = deque()
        self._bytes = 0
        self._count = 0

    def next_number(self) -> int:
        """Return the number of the next request, from 1."""
        self._count += 1
        return self._count

    def keep(self, request: InspectedRequest) -> None:
        """Keep a request."""
        self._kept.append(request)
        self._bytes += request.kept_bytes
        while len(self._kept) > MAX_REQUESTS or self._bytes > MAX_BYTES:
            self._bytes -= self._kept.popleft().kept_bytes

    def last(
        self, most: int, *, name: str | None = None, after: int = 0, before: int = MAX_SAFE_INTEGER
    ) -> list[InspectedRequest]:
        """Return up to `most` requests, the newest first: of one name, with numbers between `after` and `before`."""
        found = (one for one in reversed(self._kept) if after < one.number < before and name in (None, one.name))
        return [one for one, _ in zip(found, range(most), strict=False)]
