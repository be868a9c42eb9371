"""Reads requests to the async proxy: what is for the upstream, and what is for toril."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta
from starlette.types import Receive, Scope

from toril.core.errors import InvalidRequest
from toril.core.http.headers import FORWARDING, Header, end_to_end, forwarded
from toril.core.http.urls import check_url
from toril.core.times import SIGNED_DURATION_PATTERN, parse_duration_s
from toril.http_client.egress import Egress
from toril.proxy.ports import Submission
from toril.proxy.rules.callback import HEADER as CALLBACK
from toril.proxy.rules.grouping import owner_of
from toril.proxy.rules.matching import Enqueue
from toril.proxy.rules.upstream import ProxyPolicy, Upstream
from toril.telemetry.tracing.requests import sent_trace
from toril.web.idempotency_key import KEY, single_key
from toril.web.openapi.description import Parameter
from toril.web.request import read_body

TIMEOUT = b"x-proxq-timeout"
PREFER = b"prefer"
MOST_PREFERRED_S = 300.0
_MOST_KEY_BYTES = 255
# 290 years: Go counts nanoseconds in 64 bits.
_LONGEST_S = (2**63 - 1) / 1e9
ASKS = (
    Parameter(
        "X-Proxq-Timeout",
        Annotated[str, Meta(pattern=SIGNED_DURATION_PATTERN, examples=["90s"])],
        "How long one attempt may take, instead of the upstream's own timeout; `0`, an empty value and a negative "
        "duration are that one",
        place="header",
    ),
    Parameter(
        "Prefer",
        Annotated[str, Meta(examples=["wait=10"])],
        f"`wait=N`: be given the upstream's answer itself, if it is there within N seconds ({MOST_PREFERRED_S:.0f} at "
        "most); else 202",
        place="header",
    ),
    Parameter(
        "Idempotency-Key",
        Annotated[str, Meta(min_length=1, max_length=_MOST_KEY_BYTES)],
        "The same key with the same request, to one upstream by one `Authorization`, is the same job, as long as that "
        "is under way or answered",
        place="header",
    ),
)
"""What a submission can ask toril itself for. But for the callback they are passed on, too."""
ASKS_CALLBACK = Parameter(
    "X-Toril-Callback",
    Annotated[str, Meta(extra_json_schema={"format": "uri"}, examples=["https://shop.example/told"])],
    "A URL that is told the job's end, signed as Standard Webhooks has it",
    place="header",
)
"""The same where callbacks are configured."""
_WAIT = re.compile(rb"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


class ProxiedRequests:
    """Reads requests.

    Args:
        policy: the operator's.
        egress: where callbacks may go.
    """

    def __init__(self, policy: ProxyPolicy, egress: Egress) -> None:
        self._owner_only = policy.owner_only
        self._caches = policy.cache.mode != "none"
        self._has_callbacks = bool(policy.callback.secrets)
        self._egress = egress

    async def read(self, scope: Scope, receive: Receive, found: Enqueue) -> Submission:
        """Return the whole request.

        Raises:
            PayloadTooLarge: its body is too large.
            InvalidRequest: a header for toril has an invalid value; with a field if proxq has no such header.
        """
        given: Sequence[Header] = scope["headers"]
        asked = dict(reversed(given))  # the first of each counts
        timeout_s = _timeout_s(asked[TIMEOUT]) if TIMEOUT in asked else None
        key = single_key(given) if KEY in asked else None
        if key is not None and not 0 < len(key) <= _MOST_KEY_BYTES:
            raise InvalidRequest(
                f"Idempotency-Key must have 1 to {_MOST_KEY_BYTES} characters", field="idempotency-key"
            )
        callback = self._callback(asked.get(CALLBACK)) if self._has_callbacks else None
        headers, by = self._forwarded(scope), found.upstream.group_by
        group = None if by is None else by.group(headers)
        body = await read_body(scope, receive, found.upstream.max_body_bytes)
        return Submission(
            upstream=found.upstream,
            method=scope["method"],
            target=found.target,
            headers=headers,
            trace=sent_trace(scope, found.upstream.prefix),
            body=body,
            timeout_s=timeout_s,
            wait_s=preferred_wait_s(given) if PREFER in asked else 0.0,
            key=key,
            caller=asked.get(b"authorization", b""),
            owner=owner_of(given) if self._owner_only else "",
            callback=callback,
            group=group,
            forwarding=_own_forwarding(given) if self._counts_forwarding(found.upstream) else None,
        )

    def _counts_forwarding(self, upstream: Upstream) -> bool:
        """Return True if forwarding headers are part of the cache key."""
        return self._caches and not upstream.cache_key_excludes >= FORWARDING

    def _forwarded(self, scope: Scope) -> list[Header]:
        """Return the headers that the upstream gets, without its `Host`."""
        client = scope.get("client")
        peer = client[0].encode() if client else b""
        headers = forwarded(scope["headers"], peer, scope["scheme"].encode())
        return [pair for pair in headers if pair[0] != CALLBACK] if self._has_callbacks else headers

    def _callback(self, value: bytes | None) -> str | None:
        if value is None:
            return None
        url = value.decode("latin-1")
        try:
            check_url(url)
        except InvalidRequest as exc:
            raise InvalidRequest(f"X-Toril-Callback: {exc.message}", field="x-toril-callback") from exc
        parts = urlsplit(url)
        refusal = self._egress.refuses_origin(parts.hostname or "", parts.port)
        if refusal is not None:
            raise InvalidRequest(f"X-Toril-Callback: {refusal}", field="x-toril-callback")
        return url


def preferred_wait_s(headers: Sequence[Header]) -> float:
    """Return how long the client would wait for the answer itself: `Prefer: wait=10` (RFC 7240); 0 if it would not."""
    for name, value in headers:
        if name == PREFER and (found := _WAIT.search(value)):
            return min(float(found[1]), MOST_PREFERRED_S)
    return 0.0


def _own_forwarding(headers: Sequence[Header]) -> list[Header]:
    """Return the forwarding headers that the client itself sent."""
    if not any(name in FORWARDING for name, _ in headers):
        return []
    return [pair for pair in end_to_end(headers) if pair[0] in FORWARDING]


def _timeout_s(value: bytes) -> float | None:
    """Return the timeout that a request asks for; None is the upstream's own.

    As in proxq it is a duration as Go reads one: none, zero and what is negative ask for nothing.
    """
    text = value.decode("latin-1").strip()
    if not text:
        return None
    is_negative = text[0] == "-"
    try:
        timeout_s = parse_duration_s(text[1:] if text[0] in "+-" else text)
    except ValueError as exc:
        raise InvalidRequest from exc
    if timeout_s > _LONGEST_S:
        raise InvalidRequest
    return None if is_negative else timeout_s or None
