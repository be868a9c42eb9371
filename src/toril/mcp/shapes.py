"""The shapes of the messages at `/mcp`, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class McpRequest(Struct):
    """A JSON-RPC request; without an `id` it is a notification."""

    jsonrpc: Literal["2.0"]
    method: str
    id: str | int | UnsetType = UNSET
    params: dict[str, Any] | UnsetType = UNSET


class McpError(Struct):
    """An error of JSON-RPC or of the protocol."""

    code: int
    message: str
    data: Any | UnsetType = UNSET


class McpAnswer(Struct):
    """The answer to a request: a result or an error. The id is left out where it could not be read."""

    jsonrpc: Literal["2.0"]
    id: str | int | UnsetType = UNSET
    result: dict[str, Any] | UnsetType = UNSET
    error: McpError | UnsetType = UNSET
