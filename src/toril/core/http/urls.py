"""The URLs that callers may name: those of registered endpoints and of callbacks."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from toril.core.errors import InvalidRequest

MAX_URL = 16 * 1024


def check_url(url: Any) -> None:
    """Raise InvalidRequest unless this is an absolute http(s) URL that fits a request line, without credentials."""
    fault = InvalidRequest("Invalid URL", field="endpoint.url")
    if not isinstance(url, str) or not url.isprintable() or " " in url or "\\" in url:
        raise fault
    if len(url) > MAX_URL:
        raise InvalidRequest(f"Invalid URL, must be at most {MAX_URL} characters", field="endpoint.url")
    try:
        parts = urlsplit(url)
        port = parts.port  # reading it raises where it is no port
        (parts.hostname or "").encode("idna")  # raises where it is no host name
    except ValueError as exc:
        raise fault from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise fault
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest("Invalid URL, must not contain a user name or password", field="endpoint.url")
