"""The shapes of answers that every instance gives."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class Health(Struct):
    """The process is alive."""

    status: Literal["ok"]
    version: str


class AuditLine(Struct):
    """A request or command that changed something or was refused, with the names in its path.

    `tool` is the tool that made it for an agent.
    """

    at: str
    caller: str | None
    action: str
    status: int
    queue: str | UnsetType = UNSET
    group: str | UnsetType = UNSET
    target: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    job: str | UnsetType = UNSET
    key: str | UnsetType = UNSET
    matched: int | UnsetType = UNSET
    done: int | UnsetType = UNSET
    refused: int | UnsetType = UNSET
    tool: str | UnsetType = UNSET


class AuditLines(Struct):
    """Lines of the audit log."""

    lines: list[AuditLine]


class Whoami(Struct):
    """The token in use, its rights, and the queues and targets (as globs) that they are valid for."""

    name: str
    rights: list[str]
    queues: list[str]
    expires: str | None
    version: str
    doors: list[str]


class Ready(Struct):
    """Whether work is moving, and what prevents it. `warnings` are for an operator, and do not affect the status."""

    status: Literal["ready", "not ready"]
    reasons: list[str] | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET


class Reloaded(Struct):
    """The result of a reload: how many different configurations this process has read, the keys that have changed now,
    those that need a restart and are not applied, and the secret files that are gone, whose last secrets still count.
    """

    config_generation: int
    applied: list[str]
    pending_rollout: list[str]
    secrets_kept: list[str]


class Problem(Struct):
    """An error (RFC 9457). `code` is stable, `detail` is for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    field: str | UnsetType = UNSET
    state: str | UnsetType = UNSET
    failedReason: str | UnsetType = UNSET  # noqa: N815
