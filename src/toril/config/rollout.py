"""Compares the settings that run with those that are wanted: what applies at once, and what needs a restart. Pure.

Of a mixed edit, the part that applies at once does. The rest stays as it runs, and is named until it is rolled out or
taken back.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from toril.config.settings import Settings
from toril.config.table import SETTINGS
from toril.core.access import Grant
from toril.core.http.outbound_policy import DIRECT, HostRoute, with_what_applies
from toril.delivery.rules.target import TargetSpec
from toril.delivery.rules.target_rollout import with_what_applies as target_that_applies
from toril.proxy.rules.upstream import ProxyPolicy, Upstream

AT_ONCE = frozenset(setting.key for setting in SETTINGS if setting.at_once)
"""The settings that running workers take over. `toril.delivery.rules.target_rollout` says which of a target's are."""

# Compared otherwise, or other names of what has one.
_NO_FIELD = frozenset(
    {"targets", "upstreams", "workers.outbound", "callback.outbound", "redis.url", "listenAddress", "redis.addr"}
)


class Plan(Struct, frozen=True, kw_only=True):
    """The settings that run from now on, the keys that this changes, and the keys that wait for a restart."""

    settings: Settings
    applied: tuple[str, ...]
    pending: tuple[str, ...]


def plan(running: Settings, wanted: Settings) -> Plan:
    """Return what becomes of `running` when `wanted` is read."""
    settings, applied, pending = running, [], []
    for setting in SETTINGS:
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
    settings = replace(
        settings,
        targets=_targets(running.targets, wanted.targets, applied, pending),
        worker_routes=_routes("workers.outbound", running.worker_routes, wanted.worker_routes, applied, pending),
        proxy=_proxy(settings.proxy, wanted.proxy, applied, pending),
    )
    return Plan(settings=settings, applied=tuple(applied), pending=tuple(pending))


def _targets(
    running: Iterable[TargetSpec], wanted: Iterable[TargetSpec], applied: list[str], pending: list[str]
) -> tuple[TargetSpec, ...]:
    """Return the targets that run from now on, in the order in which they ran."""
    new = {spec.name: spec for spec in wanted}
    kept = []
    for spec in running:
        if spec.name in new:
            kept.append(target_that_applies(spec, new.pop(spec.name), applied, pending))
        else:
            pending.append(f"targets.{spec.name}")
            kept.append(spec)
    pending.extend(f"targets.{name}" for name in new)
    return tuple(kept)


def _proxy(running: ProxyPolicy, wanted: ProxyPolicy, applied: list[str], pending: list[str]) -> ProxyPolicy:
    routes = _routes("callback.outbound", running.callback.routes, wanted.callback.routes, applied, pending)
    upstreams = _upstreams(running.upstreams, wanted.upstreams, applied, pending)
    return replace(running, upstreams=upstreams, callback=replace(running.callback, routes=routes))


def _routes(
    key: str,
    running: tuple[HostRoute, ...],
    wanted: tuple[HostRoute, ...],
    applied: list[str],
    pending: list[str],
) -> tuple[HostRoute, ...]:
    """Return the ways by host from now on: those that run, with the files of those that are wanted."""
    if [route.hosts for route in running] != [route.hosts for route in wanted]:
        pending.append(key)
    new = {route.hosts: route.outbound for route in wanted}
    kept = []
    for number, route in enumerate(running, 1):
        path, outbound = f"{key}.{number}", new.get(route.hosts, route.outbound)
        kept.append(replace(route, outbound=with_what_applies(route.outbound, outbound, path, applied, pending)))
    return tuple(kept)


def _upstreams(
    running: tuple[Upstream, ...], wanted: tuple[Upstream, ...], applied: list[str], pending: list[str]
) -> tuple[Upstream, ...]:
    """Return the upstreams that run from now on: those that ran, with the files of those that are wanted."""
    if [replace(one, outbound=DIRECT) for one in running] != [replace(one, outbound=DIRECT) for one in wanted]:
        pending.append("upstreams")
    new = {one.prefix: one.outbound for one in wanted}
    kept = []
    for one in running:
        path, outbound = f"upstreams.{one.prefix}", new.get(one.prefix, one.outbound)
        kept.append(replace(one, outbound=with_what_applies(one.outbound, outbound, path, applied, pending)))
    return tuple(kept)


def _comparable(value: Any) -> Any:
    """Return a value that compares by content: callers in grants compare by identity."""
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
