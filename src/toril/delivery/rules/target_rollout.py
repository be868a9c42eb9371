"""What of a changed target applies while it runs, and what waits for a restart."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from toril.core.http.outbound_policy import with_what_applies as outbound_that_applies
from toril.delivery.rules.target import Signing, TargetAuth, TargetSpec

AT_ONCE = ("retry", "rate_limit", "retention", "replay_key", "group_by", "group")
AFTER_RESTART = ("url", "timeout", "concurrency", "breaker")


def with_what_applies(running: TargetSpec, wanted: TargetSpec, applied: list[str], pending: list[str]) -> TargetSpec:
    """Return the target as it runs from now on; the keys that changed are added to `applied`, or to `pending`."""
    path = f"targets.{running.name}"
    changed: dict[str, Any] = {}
    for name in AT_ONCE:
        if getattr(running, name) != getattr(wanted, name):
            changed[name] = getattr(wanted, name)
            applied.append(f"{path}.{name}")
    pending.extend(f"{path}.{name}" for name in AFTER_RESTART if getattr(running, name) != getattr(wanted, name))
    if _alike_but_for_secrets(running.auth, wanted.auth):
        if running.auth != wanted.auth:
            changed["auth"] = wanted.auth
            applied.append(f"{path}.auth.secret_file")
    else:
        pending.append(f"{path}.auth")
    changed["outbound"] = outbound_that_applies(running.outbound, wanted.outbound, path, applied, pending)
    match running.signing, wanted.signing:
        case Signing() as before, Signing() as after if before != after:
            changed["signing"] = after
            applied.append(f"{path}.signing.secret_file")
        case (Signing(), None) | (None, Signing()):
            pending.append(f"{path}.signing")
    return replace(running, **changed)


def _alike_but_for_secrets(one: TargetAuth, other: TargetAuth) -> bool:
    """Return True where two differ in their secret at most."""
    return (one.scheme, one.header) == (other.scheme, other.header)
