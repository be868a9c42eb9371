"""CORS: lets pages of other origins call toril from a browser. Off unless configured."""

from __future__ import annotations

from msgspec import Struct
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SENT = (
    "authorization",
    "content-type",
    "idempotency-key",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "prefer",
    "x-proxq-timeout",
)
"""The request headers that toril reads, which a page may always send."""
EXPOSED = (
    "allow",
    "idempotent-replayed",
    "location",
    "retry-after",
    "toril-code",
    "toril-job-id",
    "toril-truncated",
    "www-authenticate",
    "x-proxq-source",
)
"""The response headers of toril's that a page may read."""
_MAX_AGE_S = 600


class CorsPolicy(Struct, frozen=True, kw_only=True):
    """Which web pages may call toril: pages of these `origins` (`*` is all), which may send these `headers` beside the
    ones that toril reads. Without origins CORS is off.
    """

    origins: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


def cors(policy: CorsPolicy) -> list[Middleware]:
    """Return the middleware for these origins; none if no origin is allowed.

    Tokens travel in `Authorization`, so there are no credentials in the sense of CORS, and no cookies.
    """
    if not policy.origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=policy.origins,
            allow_methods=METHODS,
            allow_headers=[*SENT, *policy.headers],
            expose_headers=EXPOSED,
            max_age=_MAX_AGE_S,
        )
    ]
