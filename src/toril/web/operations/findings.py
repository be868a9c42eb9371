"""What is wrong with an installation, and what to do about it, from facts that were read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct

FindingState = Literal["ok", "warn", "fail"]

_OLDEST = (6, 2)
_FULL = 0.9
_SKEWED_S = 1.0
_FEW_DESCRIPTORS = 4096


class Finding(Struct, frozen=True):
    """One fact about an installation: what it is about, whether that is good, and what to do where it is not."""

    about: str
    state: FindingState
    text: str
    remedy: str | None = None


def about_redis(info: Mapping[str, str], node: str) -> Iterator[Finding]:
    """Yield what `INFO` of a Redis server tells: version, role, eviction, memory and persistence."""
    version = info.get("valkey_version") or info.get("redis_version", "")
    kind = "Valkey" if "valkey_version" in info else "Redis"
    if _numbers(info.get("redis_version", "")) < _OLDEST:
        yield Finding("redis.version", "fail", f"{node} runs {kind} {version}.", "Use Redis 6.2 or newer, or Valkey.")
    else:
        yield Finding("redis.version", "ok", f"{node} runs {kind} {version}.")
    if info.get("role") == "slave":
        yield Finding("redis.role", "fail", f"{node} is a replica.", "Name the primary in redis.host or REDIS_URL.")
    policy = info.get("maxmemory_policy", "")
    if policy and policy != "noeviction":
        yield Finding(
            "redis.eviction",
            "fail",
            f"{node} removes keys when it is full ({policy}): jobs would be lost.",
            "Set maxmemory-policy to noeviction.",
        )
    elif policy:
        yield Finding("redis.eviction", "ok", f"{node} removes no keys ({policy}).")
    yield from _about_memory(info, node)
    yield from _about_persistence(info, node)


def _about_memory(info: Mapping[str, str], node: str) -> Iterator[Finding]:
    most, used = int(info.get("maxmemory", "0")), int(info.get("used_memory", "0"))
    if not most:
        yield Finding("redis.memory", "ok", f"{node} has no limit of memory, and uses {used >> 20} MiB.")
    elif used >= _FULL * most:
        remedy = "Raise maxmemory, or remove finished jobs (removeOnComplete, removeOnFail, toril jobs rm)."
        yield Finding("redis.memory", "warn", f"{node} uses {used / most:.0%} of its memory.", remedy)
    else:
        yield Finding("redis.memory", "ok", f"{node} uses {used / most:.0%} of its memory.")


def _about_persistence(info: Mapping[str, str], node: str) -> Iterator[Finding]:
    if info.get("aof_enabled") == "1" and info.get("aof_last_write_status", "ok") != "ok":
        yield Finding("redis.persistence", "fail", f"{node} cannot write its append-only file.", "Look at its disk.")
    elif info.get("aof_enabled") == "1":
        yield Finding("redis.persistence", "ok", f"{node} writes an append-only file.")
    elif info.get("rdb_last_bgsave_status", "ok") != "ok":
        yield Finding("redis.persistence", "fail", f"{node} cannot write its snapshot.", "Look at its disk.")
    elif info:
        yield Finding(
            "redis.persistence",
            "warn",
            f"{node} has no append-only file: a crash loses jobs that were acknowledged since its last snapshot.",
            "Set appendonly to yes.",
        )


def about_clock(ahead_s: float) -> Finding:
    """Return what it means that this machine's clock is so far ahead of Redis'."""
    if abs(ahead_s) <= _SKEWED_S:
        return Finding("clock", "ok", "The clocks of this machine and of Redis agree.")
    which = "ahead of" if ahead_s > 0 else "behind"
    return Finding(
        "clock",
        "warn",
        f"The clock of this machine is {abs(ahead_s):.1f} s {which} that of Redis, by which all due times are meant.",
        "Run an NTP client on both.",
    )


def about_descriptors(limit: int, used: int) -> Finding:
    """Return whether a process may have enough files and connections."""
    text = f"A process may have {limit} files and connections; this one has {used}."
    if limit >= _FEW_DESCRIPTORS:
        return Finding("descriptors", "ok", text)
    return Finding("descriptors", "warn", text, "Raise the limit (ulimit -n, LimitNOFILE in systemd) to 65536.")


def about_egress(policy: str, *, strangers: bool) -> Finding:
    """Return whether callers can have requests sent to internal addresses.

    Args:
        strangers: a token for some queues only may register workers.
    """
    if policy == "public":
        return Finding("egress", "ok", "Registered workers must have public addresses (egress.policy: public).")
    text = "Registered workers may have internal addresses (egress.policy: internal)"
    if strangers:
        remedy = "Set egress.policy to public, and name the internal addresses that are meant in egress.allow."
        return Finding("egress", "warn", f"{text}, and tokens with limited rights may register some.", remedy)
    return Finding("egress", "ok", f"{text}.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
