"""Reads one JSON-RPC message of the Model Context Protocol, and checks it against its HTTP headers.

Two eras of the protocol are served beside each other. A request of 2026-07-28 says in its `_meta` and in its headers
which version it speaks; there is no handshake and no session. Clients of 2025-11-25 and 2025-06-18 begin with
`initialize`; they get no session either, so each of their requests stands alone too.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from toril.core.integers import MAX_SAFE_INTEGER

MODERN = "2026-07-28"
LEGACY = ("2025-11-25", "2025-06-18")
SUPPORTED = (MODERN, *LEGACY)
"""The versions that are served, the newest first."""
_WITHOUT_HEADER = "2025-03-26"
"""The version of a client that names none (2025-11-25, Protocol Version Header)."""

PARSE_ERROR = -32700
INVALID_MESSAGE = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022

_META = "io.modelcontextprotocol/"
VERSION_KEY = _META + "protocolVersion"
CAPABILITIES_KEY = _META + "clientCapabilities"
SERVER_KEY = _META + "serverInfo"

_VERSION_HEADER, _METHOD_HEADER, _NAME_HEADER = "mcp-protocol-version", "mcp-method", "mcp-name"
_ENCODED = re.compile(r"=\?base64\?(.*)\?=\Z")
_MOST_ID = 1000
_MOST_SHOWN = 100

MessageId = str | int
Headers = Mapping[str, Sequence[str]]
"""The values of each header, by its lower-case name."""


class Message(Struct, frozen=True):
    """A request, or without an `id` a notification. `modern` is the era that it is answered in."""

    method: str
    params: dict[str, Any]
    id: MessageId | None
    modern: bool


class RefusedMessage(Exception):
    """A message that is not served: the error to answer with, and the HTTP status."""

    def __init__(self, code: int, message: str, *, status: int = 400, **data: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.data = data or None
        self.id: MessageId | None = None


class _Posted(Struct):
    jsonrpc: Literal["2.0"]
    method: str
    id: MessageId | UnsetType = UNSET
    params: dict[str, Any] | UnsetType = UNSET


def read_message(text: bytes, headers: Headers) -> Message:
    """Return the message in a body.

    Raises:
        RefusedMessage: it is no message, or does not match its headers. `id` is set where it could be read.
    """
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RefusedMessage(PARSE_ERROR, f"The body is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise RefusedMessage(INVALID_MESSAGE, "The body must be one JSON-RPC message, and no batch")
    try:
        return _checked(found, headers)
    except RefusedMessage as exc:
        exc.id = _id_of(found)
        raise


def _id_of(found: Mapping[str, Any]) -> MessageId | None:
    """Return the id of a message; None if it has none that can be repeated."""
    given = found.get("id")
    if isinstance(given, str):
        return given if len(given) <= _MOST_ID else None
    if isinstance(given, int) and not isinstance(given, bool):
        return given if abs(given) <= MAX_SAFE_INTEGER else None
    return None


def _checked(found: dict[str, Any], headers: Headers) -> Message:
    try:
        posted = msgspec.convert(found, _Posted)
    except msgspec.ValidationError as exc:
        raise RefusedMessage(INVALID_MESSAGE, f"The body is no JSON-RPC request or notification: {exc}") from exc
    message_id = _id_of(found)
    if "id" in found and message_id is None:
        raise RefusedMessage(INVALID_MESSAGE, f"id must be a text of at most {_MOST_ID} characters, or an integer")
    params = {} if posted.params is UNSET else posted.params
    meta = params.get("_meta", {})
    if not isinstance(meta, dict):
        raise RefusedMessage(INVALID_PARAMS, "params._meta must be an object")
    modern = _is_modern(posted.method, _single(headers, _VERSION_HEADER), meta)
    message = Message(posted.method, params, message_id, modern)
    if modern and message.id is not None:
        _check_modern(message, meta, headers)
    return message


def _is_modern(method: str, header: str | None, meta: Mapping[str, Any]) -> bool:
    """Return True for a message of 2026-07-28, False for one of a client that begins with `initialize`."""
    given = meta.get(VERSION_KEY)
    if given is None:
        if method == "initialize" or header in {None, *LEGACY, _WITHOUT_HEADER}:
            return False
        if header != MODERN:
            raise _unsupported(str(header))
        if method.startswith("notifications/"):
            return True
        raise RefusedMessage(INVALID_PARAMS, f"params._meta has no {VERSION_KEY}, which {MODERN} needs")
    if not isinstance(given, str):
        raise RefusedMessage(INVALID_PARAMS, f"params._meta: {VERSION_KEY} must be a text")
    if header is None:
        raise RefusedMessage(HEADER_MISMATCH, "Header mismatch: there is no MCP-Protocol-Version")
    if header != given:
        raise _mismatch("MCP-Protocol-Version", header, given)
    if given in LEGACY:
        return False
    if given != MODERN:
        raise _unsupported(given)
    return True


def _check_modern(message: Message, meta: Mapping[str, Any], headers: Headers) -> None:
    if not isinstance(meta.get(CAPABILITIES_KEY), dict):
        raise RefusedMessage(INVALID_PARAMS, f"params._meta has no {CAPABILITIES_KEY}, which must be an object")
    _check_header("Mcp-Method", _single(headers, _METHOD_HEADER), message.method)
    if message.method == "tools/call":
        name = message.params.get("name")
        _check_header("Mcp-Name", _decoded(_single(headers, _NAME_HEADER)), name if isinstance(name, str) else "")


def _check_header(name: str, header: str | None, body: str) -> None:
    if header is None:
        raise RefusedMessage(HEADER_MISMATCH, f"Header mismatch: there is no {name}, or none that can be read")
    if header != body:
        raise _mismatch(name, header, body)


def _single(headers: Headers, name: str) -> str | None:
    """Return the value of a header; two of them could be read in two ways."""
    values = headers.get(name, ())
    if len(values) > 1:
        raise RefusedMessage(HEADER_MISMATCH, f"Header mismatch: {name} is there {len(values)} times")
    return values[0].strip() if values else None


def _decoded(value: str | None) -> str | None:
    """Return a header's value, which may be written in Base64 (2026-07-28, Value Encoding); None if it is malformed."""
    found = _ENCODED.match(value or "")
    if found is None:
        return value
    try:
        return base64.b64decode(found[1], validate=True).decode()
    except (binascii.Error, UnicodeError):
        return None


def _mismatch(name: str, header: str, body: str) -> RefusedMessage:
    shown = f"{header[:_MOST_SHOWN]!r} does not match {body[:_MOST_SHOWN]!r} in the body"
    return RefusedMessage(HEADER_MISMATCH, f"Header mismatch: {name} {shown}")


def _unsupported(requested: str) -> RefusedMessage:
    return RefusedMessage(
        UNSUPPORTED_VERSION,
        "Unsupported protocol version",
        supported=list(SUPPORTED),
        requested=requested[:_MOST_SHOWN],
    )
