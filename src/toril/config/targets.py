"""The `targets:` of the configuration file: every fault at once, each with the target's name and key.

Secret files are read here; what they hold is never in a fault. Called by `toril.config.loading`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from toril.config.secret_files import SecretFiles
from toril.config.sections import Section
from toril.config.tokens import Faults
from toril.core.access import RateLimit
from toril.core.durations import parse_duration_s
from toril.core.headers import is_header_name, is_header_value
from toril.core.signing import MAX_SECRETS, Secret, read_secret
from toril.core.target import (
    NOT_ALLOWED,
    RETRIED,
    BreakerPolicy,
    Retention,
    RetryPolicy,
    Signing,
    TargetAuth,
    TargetSpec,
    Timeouts,
)

_KEYS = (
    "url", "timeout", "concurrency", "rate_limit", "retry", "breaker", "auth", "signing", "retention",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DAYS = re.compile(r"(\d{1,5})d")
_CLASSES = {f"{digit}xx": range(digit * 100, digit * 100 + 100) for digit in (3, 4, 5)}
_SCHEMES = ("none", "bearer", "basic", "header", "passthrough")
_WITH_SECRET = ("bearer", "basic", "header")
_TOKEN = re.compile(r"[\x21-\x7e]+\Z")
_YEAR_S = 366 * 86400.0


def targets(value: Any, secrets: SecretFiles | None = None) -> tuple[TargetSpec, ...]:
    """What a mapping of names to targets says, with the secrets that its files hold.

    Raises:
        ValueError: it is no mapping.
        Faults: everything that is wrong with it.
    """
    if not isinstance(value, Mapping):
        raise ValueError("it must be a mapping of names to targets")  # noqa: TRY004 - as settings
    faults: list[str] = []
    files = secrets if secrets is not None else SecretFiles()
    found = [_target(str(name), entry, faults, files) for name, entry in value.items()]
    if faults:
        raise Faults(faults)
    return tuple(spec for spec in found if spec is not None)


def _target(name: str, entry: Any, faults: list[str], files: SecretFiles) -> TargetSpec | None:
    if not _NAME.match(name):
        faults.append(f"{name[:80]!r}: a target's name is 1 to 64 letters, digits, dots, hyphens or underscores")
        return None
    section = Section(entry, name, _KEYS, faults)
    url = section.need("url", _url)
    default = TargetSpec(name=name, url="")
    return TargetSpec(
        name=name,
        url=url or "",
        timeout=_timeout(section),
        concurrency=section.read("concurrency", _whole(1, 10_000), default.concurrency),
        rate_limit=_rate_limit(section),
        retry=_retry(section),
        breaker=_breaker(section),
        auth=_auth(section, files),
        signing=_signing(section, files),
        retention=_retention(section),
    )


def _timeout(target: Section) -> Timeouts:
    section, default = target.section("timeout", ("connect", "total")), Timeouts()
    if section is None:
        return default
    return Timeouts(
        connect_s=section.read("connect", _duration(0.001, 3600), default.connect_s),
        total_s=section.read("total", _duration(0.001, 24 * 3600), default.total_s),
    )


def _rate_limit(target: Section) -> RateLimit | None:
    section = target.section("rate_limit", ("max", "per"))
    if section is None:
        return None
    most, per_s = section.need("max", _whole(1, 1_000_000)), section.need("per", _duration(0.001, 24 * 3600))
    return None if most is None or per_s is None else RateLimit(most, per_s)


def _retry(target: Section) -> RetryPolicy:
    section = target.section("retry", ("max_attempts", "backoff", "base", "max", "jitter", "retry_on", "fail_on"))
    default = RetryPolicy()
    if section is None:
        return default
    policy = RetryPolicy(
        max_attempts=section.read("max_attempts", _whole(1, 10_000), default.max_attempts),
        backoff=section.read("backoff", _choice("exponential", "fixed"), default.backoff),
        base_s=section.read("base", _duration(0.0, _YEAR_S), default.base_s),
        max_s=section.read("max", _duration(0.0, _YEAR_S), default.max_s),
        jitter=section.read("jitter", _share, default.jitter),
        retry_on=section.read("retry_on", _statuses, RETRIED),
        fail_on=section.read("fail_on", _statuses, default.fail_on),
    )
    if policy.base_s > policy.max_s and "base" in section:
        section.faults.append(f"{section.path}.base: it is longer than {section.path}.max ({policy.max_s:g}s)")
    return policy


def _breaker(target: Section) -> BreakerPolicy | None:
    # YAML makes `false` of a plain `off`.
    if target.read("breaker", lambda value: value is False or value == "off", default=False):
        return None
    section = target.section("breaker", ("failures", "window", "open_for", "half_open_probes"))
    default = BreakerPolicy()
    if section is None:
        return default
    return BreakerPolicy(
        failures=section.read("failures", _whole(1, 1000), default.failures),
        window_s=section.read("window", _duration(0.001, 24 * 3600), default.window_s),
        open_for_s=section.read("open_for", _duration(0.001, 24 * 3600), default.open_for_s),
        half_open_probes=section.read("half_open_probes", _whole(1, 1000), default.half_open_probes),
    )


def _auth(target: Section, files: SecretFiles) -> TargetAuth:
    section = target.section("auth", ("scheme", "secret_file", "header"))
    if section is None:
        return TargetAuth()
    scheme = section.need("scheme", _choice(*_SCHEMES))
    if scheme is None:
        return TargetAuth()
    header = None
    if scheme == "header":
        header = section.need("header", _header)
    elif "header" in section:
        section.faults.append(f"{section.path}.header: only the scheme header has one")
    if scheme not in _WITH_SECRET:
        if "secret_file" in section:
            section.faults.append(f"{section.path}.secret_file: the scheme {scheme} has no secret")
        return TargetAuth(scheme=scheme)
    file = section.need("secret_file", _text)
    secret = (
        section.need("secret_file", lambda value: _secret(scheme, files.read(Path(value))))
        if file is not None
        else None
    )
    return TargetAuth(scheme=scheme, secret=secret or "", secret_file=file, header=header)


def _signing(target: Section, files: SecretFiles) -> Signing | None:
    section = target.section("signing", ("secret_file",))
    if section is None:
        return None
    file = section.need("secret_file", _text)
    secrets = (
        section.need("secret_file", lambda value: _signing_secrets(value, files.read(Path(value))))
        if file is not None
        else None
    )
    return None if file is None or secrets is None else Signing(secret_file=file, secrets=secrets)


def _retention(target: Section) -> Retention:
    section, default = target.section("retention", ("delivered", "dead_lettered", "cancelled")), Retention()
    if section is None:
        return default
    parse = _duration(0.0, 100 * _YEAR_S)
    return Retention(
        delivered_s=section.read("delivered", parse, default.delivered_s),
        dead_lettered_s=section.read("dead_lettered", parse, default.dead_lettered_s),
        cancelled_s=section.read("cancelled", parse, default.cancelled_s),
    )


def _signing_secrets(file: str, text: str) -> tuple[Secret, ...]:
    """The secrets of a file, one per line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not 1 <= len(lines) <= MAX_SECRETS:
        raise ValueError(f"the file {file} must hold 1 to {MAX_SECRETS} secrets, one per line")
    secrets = []
    for number, line in enumerate(lines, 1):
        try:
            secrets.append(read_secret(line))
        except ValueError as exc:
            # Not chained: whatever the decoder says of a secret stays here.
            raise ValueError(f"the file {file}, secret {number}: it {exc}") from None
    if len(set(secrets)) < len(secrets):
        raise ValueError(f"the file {file} holds the same secret twice")
    return tuple(secrets)


def _secret(scheme: str, text: str) -> str:
    if not text:
        raise ValueError("the file is empty")
    match scheme:
        case "bearer" if not _TOKEN.match(text):
            raise ValueError("a bearer token is one line of visible ASCII characters, without spaces")
        case "basic" if ":" not in text or not is_header_value(text.encode()):
            raise ValueError("the file must hold user:password in one line")
        case "header" if not text.isascii() or not is_header_value(text.encode()):
            raise ValueError("a header's value is one line of ASCII characters")
    return text


def _url(value: Any) -> str:
    url = _text(value)
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        # Not repeated: it holds a secret.
        raise ValueError("it must hold no user and no password; auth: {scheme: basic} sends them")
    if any(not "!" <= char <= "~" for char in url):
        raise ValueError(f"{url!r} holds a space, a control character or one that is not ASCII")
    try:
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(f"{url!r} is not an http:// or https:// URL with a host")
    if "#" in url:
        raise ValueError(f"{url!r} has a fragment, which is never sent")
    return url


def _header(value: Any) -> str:
    name = _text(value)
    lower = name.lower()
    if not name.isascii() or not is_header_name(name.encode()):
        raise ValueError(f"{name!r} is not the name of a header")
    if lower in NOT_ALLOWED or lower.startswith(("toril-", "webhook-")) or lower in {"traceparent", "content-type"}:
        raise ValueError(f"the header {name} is not the auth's to set")
    return name


def _statuses(value: Any) -> frozenset[int]:
    if not isinstance(value, list):
        raise ValueError('it must be a list such as [408, 429, "5xx"]')  # noqa: TRY004 - as settings
    found: set[int] = set()
    for item in value:
        if isinstance(item, str) and item in _CLASSES:
            found.update(_CLASSES[item])
        elif isinstance(item, int) and not isinstance(item, bool) and 300 <= item <= 599:
            found.add(item)
        else:
            raise ValueError(f'{item!r} is neither a status from 300 to 599 nor "3xx", "4xx" or "5xx"')
    return frozenset(found)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{value!r} is not a whole number from {least} to {most}")
        return value

    return parse


def _share(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not a number from 0 to 1")
    return float(value)


def _choice(*allowed: str) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
        return value

    return parse


def _duration(least_s: float, most_s: float) -> Callable[[Any], float]:
    """A duration in Go's syntax; days (`30d`) are understood too, in front."""

    def parse(value: Any) -> float:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a duration such as 30s, 1h30m or 30d")  # noqa: TRY004 - as settings
        days = _DAYS.match(value)
        rest = value[days.end() :] if days else value
        seconds = (int(days[1]) * 86400.0 if days else 0.0) + (parse_duration_s(rest) if rest or not days else 0.0)
        if not least_s <= seconds <= most_s:
            raise ValueError(f"{value!r} is not between {least_s:g}s and {most_s:g}s")
        return seconds

    return parse
