"""Access tokens of one OAuth client (RFC 6749 4.4): fetched when they are needed, kept until they end.

One fetch at a time; all requests that wait meanwhile share what comes of it. The secret goes to the OAuth server alone,
by HTTP Basic, and neither it nor a token is ever part of an error or of a log line.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec

from toril.core.destination import OutboundRequest
from toril.core.http.headers import request_head
from toril.core.http.outbound_policy import ClientCredentials
from toril.core.outcome import ERR_AUTH, Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut

FETCH_S = 10.0
"""How long one fetch may take."""

_EARLY_S = 10.0
"""How long before its end a token is renewed, or a tenth of its life where that is shorter."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")
_ERROR = re.compile(r"[A-Za-z0-9_.-]{1,60}\Z")

Send = Callable[[OutboundRequest], Awaitable[Outcome]]


class AccessTokens:
    """The access token of one client.

    Args:
        credentials: what it is fetched with.
        send: makes a request to the OAuth server.
    """

    def __init__(self, credentials: ClientCredentials, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._token = b""
        self._until = 0.0
        # When the last fetch ended, and why without a token where it did.
        self._fetched_at = 0.0
        self._failure = ""
        self.renew(credentials)

    def renew(self, credentials: ClientCredentials) -> None:
        """Fetch the next token with these; the one that is there belongs to the secret before, and is dropped."""
        self._credentials = credentials
        parts = urlsplit(credentials.token_url)
        self._shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._request = _token_request(credentials)
        self._token = b""

    def refused(self, token: bytes) -> None:
        """Take note that the destination has refused a token (401): the next request fetches another one."""
        if token == self._token:
            self._token = b""

    async def token(self, patience_s: float) -> bytes | ConnectFailed:
        """Return a token that has not ended, or why there is none. Waits no longer than `patience_s`."""
        began, started = self._loop.time(), perf_counter()
        if self._token and began < self._until:
            return self._token
        try:
            async with asyncio.timeout(patience_s), self._lock:
                failure = ""
                if self._fetched_at >= began:  # another request has fetched meanwhile
                    failure = self._failure
                if not failure and not (self._token and (self._fetched_at >= began or self._loop.time() < self._until)):
                    failure = await self._fetch()
        except TimeoutError:
            failure = "did not answer in time"
        if not failure:
            return self._token
        detail = f"No access token: the OAuth server {self._shown} {failure}"
        return ConnectFailed(ERR_AUTH, detail, perf_counter() - started)

    async def _fetch(self) -> str:
        """Fetch a token, and return why there is none; an empty text where there is."""
        credentials = self._credentials
        outcome = await self._send(self._request)
        read = _read(outcome)
        self._fetched_at = self._loop.time()
        if credentials is not self._credentials:
            return await self._fetch()  # the secret has changed meanwhile
        if isinstance(read, str):
            self._token, self._failure = b"", read
            return read
        self._token, life_s = read
        self._until = self._fetched_at + life_s - min(_EARLY_S, life_s / 10)
        self._failure = ""
        return ""


def _token_request(credentials: ClientCredentials) -> OutboundRequest:
    parts = urlsplit(credentials.token_url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # RFC 6749 2.3.1: both parts are form-encoded before HTTP Basic joins them.
    pair = f"{quote_plus(credentials.client_id)}:{quote_plus(credentials.secret)}"
    form = {"grant_type": "client_credentials"}
    if credentials.scopes:
        form["scope"] = " ".join(credentials.scopes)
    headers = [
        (b"authorization", b"Basic " + base64.b64encode(pair.encode())),
        (b"accept", b"application/json"),
        (b"content-type", b"application/x-www-form-urlencoded"),
    ]
    head = request_head(b"POST", target.encode(), parts.netloc.encode(), headers)
    return OutboundRequest(head, urlencode(form).encode(), FETCH_S)


def _read(outcome: Outcome) -> tuple[bytes, float] | str:
    """Return the token of an OAuth server's answer and how long it lives, or what is wrong with the answer."""
    match outcome:
        case Answered(status=200):
            return _read_token(outcome.body)
        case Answered():
            return f"answered {outcome.status}{_error_code(outcome.body)}"
        case TimedOut():
            return f"did not answer within {FETCH_S:g} s (waiting for: {outcome.phase})"
        case ConnectFailed() | CutOff():
            return f"cannot be asked: {outcome.code}: {outcome.detail}"
        case Replied():
            raise TypeError("an OAuth server answers by HTTP")


def _read_token(body: bytes) -> tuple[bytes, float] | str:
    answer = _json(body)
    if not isinstance(answer, dict):
        return "answered 200 with something that is no JSON object"
    token, kind, life = answer.get("access_token"), answer.get("token_type"), answer.get("expires_in")
    if not isinstance(token, str) or not _TOKEN.match(token):
        return "answered 200 without a usable access_token"
    if not isinstance(kind, str) or kind.lower() != "bearer":
        return "answered 200 with a token_type other than Bearer"
    if life is None:
        return token.encode(), float("inf")  # until the destination refuses it
    try:
        life_s = float(life)
    except (TypeError, ValueError):
        life_s = -1.0
    if isinstance(life, bool) or not 0 <= life_s < float("inf"):
        return "answered 200 with an expires_in that is no number of seconds"
    return token.encode(), life_s


def _error_code(body: bytes) -> str:
    """Return the error code of RFC 6749 5.2 in an answer. Its description is left out: it may repeat the request."""
    answer = _json(body)
    code = answer.get("error") if isinstance(answer, dict) else None
    return f" {code}" if isinstance(code, str) and _ERROR.match(code) else ""


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
