"""A request whose bodies are passed on as they come, and the beginning of its answer."""

from __future__ import annotations

from msgspec import Struct

from toril.core.http.headers import Header

BODILESS = frozenset({204, 304})
"""Statuses whose answers have no body, whatever their headers say (RFC 9110 6.4.1)."""

REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
"""Methods of requests that may be sent a second time within an attempt, where they have no body."""


class StreamRequest(Struct, frozen=True, kw_only=True):
    """A request without its body. `head` is the request line and headers without framing and without the empty line.

    `length` is that of the body, None if there is none or where it is `chunked`. `upgrade` asks for another protocol
    on the same connection: what comes behind a 101 is passed on as it is.
    """

    method: bytes
    head: bytes
    length: int | None = None
    chunked: bool = False
    upgrade: bool = False

    @property
    def has_body(self) -> bool:
        """True if a body follows the head."""
        return self.chunked or bool(self.length)

    @property
    def repeatable(self) -> bool:
        """True if it may be sent again after a failure that leaves open whether it was received (RFC 9110 9.2.2)."""
        return self.method in REPEATABLE and not self.has_body and not self.upgrade


class StreamHead(Struct, frozen=True):
    """The beginning of an answer: status, headers and reason phrase as sent. After a status below 200 comes another."""

    status: int
    headers: list[Header]
    reason: bytes = b""
