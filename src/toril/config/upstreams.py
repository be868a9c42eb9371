"""The async proxy's part of the configuration: `upstreams`, and what may not collide. Keys are proxq's, unchanged.

As in proxq, a value that is zero or empty is the default. Called by `toril.config.settings` as the parser of one
setting and by `toril.config.loading` once all settings are known.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from toril.config.tokens import Faults
from toril.core.durations import parse_duration_s
from toril.core.upstream import DEFAULT_API_PATH, PathFilter, ProxyPolicy, Upstream

_STATUSES = (429, 503)
_KEYS = (
    "prefix", "url", "timeout", "maxRetries", "retryDelay", "maxBodySize", "directProxyThreshold", "directProxyMode",
    "cacheKeyExcludeHeaders", "pathFilter", "retryOn",
)  # fmt: skip
_FILTER_KEYS = ("mode", "patterns")
UPSTREAM_KEYS = (
    *(key for key in _KEYS if key != "pathFilter"),
    *(f"pathFilter.{key}" for key in _FILTER_KEYS),
)
"""Every key of an upstream."""


def upstreams(value: Any) -> tuple[Upstream, ...]:
    """The upstreams of a list.

    Raises:
        ValueError: it is no list, or an empty one.
        Faults: everything that is wrong with it, each with the number (from 1) and the prefix of the upstream.
    """
    if not isinstance(value, list):
        raise ValueError("it must be a list of upstreams, each with prefix and url")  # noqa: TRY004 - as settings
    if not value:
        raise ValueError("at least one upstream is required")
    faults: list[str] = []
    found: list[Upstream] = []
    for number, entry in enumerate(value, 1):
        reading = _Reading(entry)
        upstream = reading.upstream()
        if upstream is not None:
            found.append(upstream)
        faults.extend(f"number {number}{reading.label}: {fault}" for fault in reading.faults)
    if faults:
        raise Faults(faults)
    return tuple(found)


class _Reading:
    """One upstream as it is read, and what was wrong so far."""

    def __init__(self, entry: Any) -> None:
        self.faults: list[str] = []
        self.label = ""
        self._entry: dict[str, Any] = {}
        if isinstance(entry, Mapping):
            self._entry = {str(key): value for key, value in entry.items()}
            prefix = self._entry.get("prefix")
            self.label = f" ({prefix})" if isinstance(prefix, str) and prefix else ""
        else:
            self.faults.append("it must be a mapping with prefix and url")

    def upstream(self) -> Upstream | None:
        """The upstream; None where something is wrong."""
        if self.faults:
            return None
        _check_keys(self._entry, _KEYS, "", self.faults)
        given: dict[str, Any] = {}
        for key, target, parse in (
            ("prefix", "prefix", prefix),
            ("url", "url", _url),
            ("timeout", "timeout_s", duration_s),
            ("maxRetries", "max_retries", _whole),
            ("retryDelay", "retry_delay_s", duration_s),
            ("maxBodySize", "max_body_bytes", _whole),
            ("directProxyMode", "direct_mode", _mode("proxy", "redirect")),
            ("cacheKeyExcludeHeaders", "cache_key_excludes", _names),
            ("pathFilter", "path_filter", self._filter),
            ("retryOn", "retry_on", _retry_on),
        ):
            self._take(key, target, parse, given)
        # Unlike everywhere else, zero says something here: no body is too large for the queue.
        if self._entry.get("directProxyThreshold") == 0:
            given["direct_threshold_bytes"] = None
        else:
            self._take("directProxyThreshold", "direct_threshold_bytes", _whole, given)
        self.faults.extend(f"{key} is missing" for key in ("prefix", "url") if not self._entry.get(key))
        return None if self.faults else Upstream(**given)

    def _take(self, key: str, target: str, parse: Callable[[Any], Any], given: dict[str, Any]) -> None:
        value = self._entry.get(key)
        if is_zero(value):
            return
        try:
            parsed = parse(value)
        except Faults as exc:
            self.faults.extend(f"{key}.{fault}" for fault in exc.faults)
        except ValueError as exc:
            self.faults.append(f"{key}: {exc}")
        else:
            if not is_zero(parsed):
                given[target] = parsed

    def _filter(self, value: Any) -> PathFilter:
        if not isinstance(value, Mapping):
            raise ValueError("it must be a mapping with mode and patterns")  # noqa: TRY004 - one kind of fault
        entry = {str(key): part for key, part in value.items()}
        faults: list[str] = []
        _check_keys(entry, _FILTER_KEYS, "", faults)
        mode: Literal["blacklist", "whitelist"] = "blacklist"
        match entry.get("mode") or "blacklist":
            case "blacklist":
                pass
            case "whitelist":
                mode = "whitelist"
            case other:
                faults.append(f"mode: {other!r} is neither blacklist nor whitelist")
        patterns = entry.get("patterns") or []
        compiled = []
        if not isinstance(patterns, list):
            faults.append("patterns: it must be a list of regular expressions")
            patterns = []
        for pattern in patterns:
            try:
                compiled.append(re.compile(pattern))
            except (re.error, TypeError, RecursionError, OverflowError) as exc:
                faults.append(f"patterns: {pattern!r} is not a regular expression ({exc})")
        if faults:
            raise Faults(faults)
        return PathFilter(mode=mode, patterns=tuple(compiled))


def _check_keys(given: Mapping[str, Any], known: tuple[str, ...], where: str, faults: list[str]) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            faults.append(f"unknown key {where}{key}" + (f"; did you mean {where}{near[0]}?" if near else ""))


def is_zero(value: Any) -> bool:
    """Whether this is nothing, as proxq sees it: the default counts."""
    return value is None or value is False or (isinstance(value, (str, int, float, list, dict)) and not value)


def duration_s(value: Any) -> float:
    """A duration in Go's syntax; a plain 0 needs no unit."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not value:
        return 0.0
    if not isinstance(value, str):
        raise ValueError(f"'{value}' is not a duration such as 30s, 1h30m or 500ms")  # noqa: TRY004 - one kind of fault
    return parse_duration_s(value)


def prefix(value: Any) -> str:
    """A path prefix, without a slash at its end unless it is one."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError(f"{value!r} is not a path that begins with a slash")
    if any(char in value for char in "?#") or not value.isprintable() or " " in value:
        raise ValueError(f"{value!r} holds characters that are in no path")
    return value.rstrip("/") or "/"


def _url(value: Any) -> str:
    fault = f"{value!r} is not an http:// or https:// URL"
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        raise ValueError(fault)
    try:
        parts = urlsplit(value)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as exc:
        raise ValueError(fault) from exc
    if parts.username is not None or parts.password is not None:
        raise ValueError("it must not contain a user name or password")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(fault)
    if parts.query or parts.fragment:
        raise ValueError(f"{value!r} must have neither query nor fragment")
    return value


def _whole(value: Any) -> int:
    try:
        number = int(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None or not 0 <= number < 2**53:
        raise ValueError(f"{value!r} is not a whole number")
    return number


def _mode(*allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
        return str(value)

    return parse


def _names(value: Any) -> frozenset[bytes]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise ValueError("it must be a list of header names")
    return frozenset(name.lower().encode() for name in value)


def _retry_on(value: Any) -> frozenset[int]:
    if not isinstance(value, list) or not all(status in _STATUSES for status in value):
        raise ValueError("it must be a list of 429, 503 or both")
    return frozenset(value)


def completed(policy: ProxyPolicy, given: Mapping[str, Any]) -> ProxyPolicy:
    """The policy with the API's path where the operator has named none: off if an upstream takes every path."""
    if "apiPath" in given or not policy.upstreams:
        return policy
    has_all = any(upstream.prefix == "/" for upstream in policy.upstreams)
    return msgspec.structs.replace(policy, api_path=None if has_all else DEFAULT_API_PATH)


def collisions(policy: ProxyPolicy) -> list[str]:
    """Paths that would mean two things."""
    faults = []
    prefixes = [upstream.prefix for upstream in policy.upstreams]
    if "/" in prefixes and len(prefixes) > 1:
        faults.append("upstreams: the prefix / takes every path, so it must be the only upstream")
    else:
        for number, one in enumerate(prefixes):
            for other in prefixes[number + 1 :]:
                if one == other:
                    faults.append(f"upstreams: the prefix {one} is there twice: {one} and {other}")
                elif _nested(one, other):
                    faults.append(f"upstreams: the prefixes {one} and {other} are nested")
    reserved = [("jobsPath", policy.jobs_path)]
    reserved.append(("apiPath", policy.ops_path) if policy.api_path else ("the path of /health", policy.ops_path))
    if _nested(policy.jobs_path, policy.ops_path):
        faults.append(f"jobsPath {policy.jobs_path} collides with {reserved[1][0]} {policy.ops_path}")
    for name, path in reserved:
        faults.extend(
            f"upstreams: the prefix {one} collides with {name} {path}"
            for one in prefixes
            if one != "/" and _nested(one, path)
        )
    return faults


def _nested(one: str, other: str) -> bool:
    return one == other or one.startswith(other.rstrip("/") + "/") or other.startswith(one.rstrip("/") + "/")
