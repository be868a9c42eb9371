"""The `upstreams:` of the configuration file, with proxq's keys, unchanged; every fault at once.

As in proxq, a value that is zero or empty is the default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from toril.core.settings.group_limits import MOST_AT_ONCE, group_rate
from toril.core.settings.section import Section
from toril.core.settings.setting import DEFAULT, Faults, Parse, Setting
from toril.core.settings.values import as_written, choice, duration, integer
from toril.http_client.outbound_settings import OUTBOUND_KEYS, ReadSecret, no_files, only_oauth2, outbound_policy
from toril.proxy.rules.grouping import GroupBy, read_group_by
from toril.proxy.rules.upstream import PathFilter, Upstream

_STATUSES = (429, 503)
_FILTER_KEYS = ("mode", "patterns")


def is_zero(value: Any) -> bool:
    """Return True for what stands for the default in proxq's file: nothing, zero, false or empty."""
    return value is None or value is False or (isinstance(value, (str, int, float, list, dict)) and not value)


def or_default(parse: Parse) -> Parse:
    """Return a parser that reads as proxq does: what is zero or empty is the default."""

    def parse_or_default(value: Any) -> Any:
        if is_zero(value):
            return DEFAULT
        parsed = parse(value)
        return DEFAULT if is_zero(parsed) else parsed

    return parse_or_default


def path(value: Any) -> str:
    """Return a path, without a slash at its end unless it is one."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError(f"{value!r} is not a path that begins with a slash")
    if any(char in value for char in "?#") or not value.isprintable() or " " in value:
        raise ValueError(f"{value!r} holds characters that are in no path")
    return value.rstrip("/") or "/"


def upstreams(value: Any, read_secret_file: ReadSecret = no_files) -> tuple[Upstream, ...]:
    """Return the upstreams of a list, with what the files that they name hold.

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
        own: list[str] = []
        upstream = _upstream(entry, own, read_secret_file)
        if not own:
            found.append(upstream)
        prefix = entry.get("prefix") if isinstance(entry, Mapping) else None
        label = f" ({prefix})" if isinstance(prefix, str) and prefix else ""
        faults.extend(f"number {number}{label}: {fault}" for fault in own)
    if faults:
        raise Faults(faults)
    return tuple(found)


def _upstream(entry: Any, faults: list[str], read_secret_file: ReadSecret) -> Upstream:
    if isinstance(entry, Mapping):
        entry = {key: value for key, value in entry.items() if key not in _WAY_KEYS or not is_zero(value)}
    section = Section(entry, "", _KEYS, faults)
    usual = Upstream(prefix="", url="")
    given = {
        setting.target: section.read(setting.key, setting.parse, getattr(usual, setting.target))
        for setting in _UPSTREAM_SETTINGS
    }
    if isinstance(entry, Mapping):
        given["path_filter"] = _path_filter(section, entry.get("pathFilter"))
        given["group_limit"] = None if is_zero(entry.get("groupLimit")) else group_rate(section, "groupLimit")
        for key in ("groupConcurrency", "groupLimit"):
            if not is_zero(entry.get(key)) and is_zero(entry.get("groupBy")):
                section.refuse(key, "it needs groupBy, which says what the group of a request is")
        given["outbound"] = outbound_policy(section, only_oauth2(section, read_secret_file), read_secret_file)
        if given["direct_mode"] == "redirect" and "auth" in section:
            section.refuse("directProxyMode", "redirect sends clients to the upstream without the access token of auth")
        faults.extend(f"{key} is missing" for key in ("prefix", "url") if not entry.get(key))
    return Upstream(**given)


def _path_filter(upstream: Section, given: Any) -> PathFilter:
    section = None if is_zero(given) else upstream.section("pathFilter", _FILTER_KEYS)
    if section is None:
        return PathFilter()
    mode: Any = section.read("mode", or_default(choice("blacklist", "whitelist")), "blacklist")
    return PathFilter(mode=mode, patterns=section.read("patterns", or_default(_patterns), ()))


def _group_by(value: Any) -> GroupBy:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is none of header:NAME, client_ip, owner")  # noqa: TRY004 - as settings
    return read_group_by(value)


def _patterns(value: Any) -> tuple[re.Pattern[str], ...]:
    if not isinstance(value, list):
        raise ValueError("it must be a list of regular expressions")  # noqa: TRY004 - as settings
    found, faults = [], []
    for pattern in map(as_written, value):
        if not isinstance(pattern, str):
            faults.append(f"{pattern!r} is not a regular expression")
            continue
        try:
            found.append(re.compile(pattern))
        except (re.error, RecursionError, OverflowError) as exc:
            faults.append(f"{pattern!r} is not a regular expression ({exc})")
    if faults:
        raise Faults(faults)
    return tuple(found)


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


def _header_names(value: Any) -> frozenset[bytes]:
    names = [as_written(name) for name in value] if isinstance(value, list) else [""]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("it must be a list of header names")
    return frozenset(name.lower().encode() for name in names)


def _retried_statuses(value: Any) -> frozenset[int]:
    if not isinstance(value, list) or not all(status in _STATUSES for status in value):
        raise ValueError("it must be a list of 429, 503 or both")
    return frozenset(int(status) for status in value)


def _threshold(value: Any) -> Any:
    """Return the size from which bodies pass the queue; unlike everywhere else, zero says something: none does."""
    return None if value == 0 and not isinstance(value, bool) else or_default(integer(0))(value)


_UPSTREAM_SETTINGS = (
    Setting("prefix", "prefix", or_default(path)),
    Setting("url", "url", or_default(_url)),
    Setting("timeout", "timeout_s", or_default(duration(0.0))),
    Setting("maxRetries", "max_retries", or_default(integer(0))),
    Setting("retryDelay", "retry_delay_s", or_default(duration(0.0))),
    Setting("maxBodySize", "max_body_bytes", or_default(integer(0))),
    Setting("directProxyThreshold", "direct_threshold_bytes", _threshold),
    Setting("directProxyMode", "direct_mode", or_default(choice("proxy", "redirect"))),
    Setting("cacheKeyExcludeHeaders", "cache_key_excludes", or_default(_header_names)),
    Setting("retryOn", "retry_on", or_default(_retried_statuses)),
    Setting("groupBy", "group_by", or_default(_group_by)),
    Setting("groupConcurrency", "group_concurrency", or_default(integer(0, MOST_AT_ONCE))),
)
_OWN_KEYS = tuple(setting.key for setting in _UPSTREAM_SETTINGS)
_WAY_KEYS = (*OUTBOUND_KEYS, "auth")
_KEYS = (*_OWN_KEYS, "groupLimit", "pathFilter", *_WAY_KEYS)
UPSTREAM_KEYS = (*_OWN_KEYS, "groupLimit", *(f"pathFilter.{key}" for key in _FILTER_KEYS), *_WAY_KEYS)
"""Every key of an upstream."""
