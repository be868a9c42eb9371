"""Compares the settings that run with those that are wanted: what applies at once, what needs a rollout. Pure.

Of a mixed edit, the part that applies applies. What does not stays as it runs, and is named until it is rolled out or
taken back. Called by `toril.config.reloading`.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from toril.config.proxy_settings import PROXY_SETTINGS
from toril.config.settings import SETTINGS
from toril.core.access import Grant
from toril.core.policy import Settings
from toril.core.target import Signing, TargetAuth, TargetSpec

AT_ONCE = frozenset(
    {
        "auth_tokens", "tokens", "payloads.url", "payloads.threshold", "payloads.redis_max", "payloads.endpoint",
        "payloads.region", "max_body", "log.level",
    }
)  # fmt: skip
"""The settings that running workers take over. Of a target it is TARGET_AT_ONCE, and secrets."""

# Compared otherwise, or other names of what has one.
_NO_FIELD = frozenset({"targets", "redis.url", "listenAddress", "redis.addr"})

TARGET_AT_ONCE = ("retry", "rate_limit", "retention")
TARGET_PENDING = ("url", "timeout", "concurrency", "breaker")


class Plan(Struct, frozen=True, kw_only=True):
    """What runs from now on, the keys that this changes, and the keys that have to wait."""

    settings: Settings
    applied: tuple[str, ...]
    pending: tuple[str, ...]


def plan(running: Settings, wanted: Settings) -> Plan:
    """What becomes of `running` when `wanted` is read."""
    settings, applied, pending = running, [], []
    for setting in (*SETTINGS, *PROXY_SETTINGS):
        if setting.key in _NO_FIELD:
            continue
        value = attrgetter(setting.target)(wanted)
        if _comparable(value) == _comparable(attrgetter(setting.target)(running)):
            continue
        if setting.key in AT_ONCE:
            settings = _with(settings, setting.target, value)
            applied.append(setting.key)
        else:
            pending.append(setting.key)
    if running.redis != wanted.redis and not any(key.startswith("redis.") for key in pending):
        pending.append("redis.url")
    targets = _targets(running.targets, wanted.targets, applied, pending)
    return Plan(settings=replace(settings, targets=targets), applied=tuple(applied), pending=tuple(pending))


def _targets(
    running: Iterable[TargetSpec], wanted: Iterable[TargetSpec], applied: list[str], pending: list[str]
) -> tuple[TargetSpec, ...]:
    """The targets that run from now on, in the order in which they ran."""
    new = {spec.name: spec for spec in wanted}
    kept = []
    for spec in running:
        if spec.name in new:
            kept.append(_target(spec, new.pop(spec.name), applied, pending))
        else:
            pending.append(f"targets.{spec.name}")
            kept.append(spec)
    pending.extend(f"targets.{name}" for name in new)
    return tuple(kept)


def _target(running: TargetSpec, wanted: TargetSpec, applied: list[str], pending: list[str]) -> TargetSpec:
    path = f"targets.{running.name}"
    changed: dict[str, Any] = {}
    for name in TARGET_AT_ONCE:
        if getattr(running, name) != getattr(wanted, name):
            changed[name] = getattr(wanted, name)
            applied.append(f"{path}.{name}")
    pending.extend(f"{path}.{name}" for name in TARGET_PENDING if getattr(running, name) != getattr(wanted, name))
    if _says_who_alike(running.auth, wanted.auth):
        if running.auth != wanted.auth:
            changed["auth"] = wanted.auth
            applied.append(f"{path}.auth.secret_file")
    else:
        pending.append(f"{path}.auth")
    match running.signing, wanted.signing:
        case Signing() as before, Signing() as after if before != after:
            changed["signing"] = after
            applied.append(f"{path}.signing.secret_file")
        case (Signing(), None) | (None, Signing()):
            pending.append(f"{path}.signing")
    return replace(running, **changed)


def _says_who_alike(one: TargetAuth, other: TargetAuth) -> bool:
    """Whether two differ in their secret at most."""
    return (one.scheme, one.header) == (other.scheme, other.header)


def _comparable(value: Any) -> Any:
    """Grants hold callers, which are told apart by who they are and not by what they may."""
    if isinstance(value, tuple) and all(isinstance(part, Grant) for part in value):
        return [
            (grant.sha256, grant.expires_at_s, caller.name, caller.rights, caller.globs, caller.rate_limit)
            for grant in value
            for caller in (grant.caller,)
        ]
    return value


def _with(settings: Settings, target: str, value: Any) -> Settings:
    section, _, field = target.rpartition(".")
    return replace(settings, **{section: replace(getattr(settings, section), **{field: value})})
