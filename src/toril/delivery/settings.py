"""The delivery door's settings: `targets:` with every fault at once, the ledger, and how deliveries are kept.

What secret files hold is never in a fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from toril.core.access import RateLimit
from toril.core.http.headers import is_header_name, is_header_value
from toril.core.http.outbound_policy import ClientCredentials
from toril.core.http.signing import MAX_SECRETS, Secret, read_secret
from toril.core.http.statuses import CLASSES, first_beaten
from toril.core.operator_event import EVENT_TYPES, matches
from toril.core.settings.group_limits import group_default
from toril.core.settings.section import Section
from toril.core.settings.setting import Faults, Setting
from toril.core.settings.values import choice, duration, integer, text, texts
from toril.core.times import duration_text
from toril.delivery.rules.enqueue import MAX_LABEL_NAME
from toril.delivery.rules.retry_policy import RETRIED, RetryPolicy
from toril.delivery.rules.target import (
    NOT_ALLOWED,
    AuthScheme,
    BreakerPolicy,
    Retention,
    Signing,
    TargetAuth,
    TargetSpec,
    Timeouts,
)
from toril.http_client.outbound_settings import (
    OAUTH_KEYS,
    OUTBOUND_KEYS,
    ReadSecret,
    client_credentials,
    outbound_policy,
)

_KEYS = (
    "url", "timeout", "concurrency", "rate_limit", "retry", "breaker", "auth", "signing", "retention", "replay_key",
    "group_by", "group", *OUTBOUND_KEYS,
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SCHEMES = ("none", "bearer", "basic", "header", "passthrough", "oauth2")
_WITH_SECRET = ("bearer", "basic", "header")
_TOKEN = re.compile(r"[\x21-\x7e]+\Z")
_YEAR_S = 366 * 86400.0
_MOST_WAITS = 1000
_HOST = re.compile(r"(\[[^]]*]|[^:[\]]*)(:\d+)?\Z")
"""A host with its port in libpq's URL, which may name several."""


def delivery_settings(read_secret_file: ReadSecret) -> tuple[Setting, ...]:
    """Return the settings of this door.

    Args:
        read_secret_file: reads the files that targets name.
    """
    return (
        Setting("targets", "targets", partial(targets, read_secret_file=read_secret_file)),
        Setting("ledger.url", "ledger.url", ledger, ("TORIL_LEDGER_URL",)),
        Setting("max_body", "delivery.max_body_bytes", integer(1), ("TORIL_MAX_BODY",), at_once=True),
        Setting("events.target", "events.target", text, ("TORIL_EVENTS_TARGET",)),
        Setting("events.types", "events.types", event_types, ("TORIL_EVENTS_TYPES",)),
        Setting("events.stuck_after", "events.stuck_after_s", duration(0.1), ("TORIL_EVENTS_STUCK_AFTER",)),
        Setting("delivery.lease", "delivery.lease_s", duration(0.1), ("TORIL_DELIVERY_LEASE",)),
        Setting("delivery.recover_every", "delivery.recover_every_s", duration(0.1), ("TORIL_RECOVER_EVERY",)),
        Setting("delivery.janitor_every", "delivery.janitor_every_s", duration(0.1), ("TORIL_JANITOR_EVERY",)),
    )


def event_types(value: Any) -> tuple[str, ...]:
    """Return patterns of event types, of a list or of one text with commas between them."""
    found = tuple(pattern for part in texts(value) if (pattern := part.strip()))
    for pattern in found:
        if not any(matches([pattern], known) for known in EVENT_TYPES):
            raise ValueError(f"{pattern!r} matches none of {', '.join(EVENT_TYPES)}")
    return found


def ledger(value: Any) -> str:
    """Return where the ledger is. It may hold a password, so it is never repeated in an error."""
    if value is None:  # `url: ~` in YAML is null, which nothing sensible could mean
        value = ""
    if not isinstance(value, str):
        raise ValueError("it must be a text")  # noqa: TRY004 - as for all settings
    scheme, _, rest = value.partition("://")
    if value == "none" or (scheme == "sqlite" and len(rest) > 1 and rest.startswith("/")):
        return value
    if scheme in {"postgresql", "postgres"} and rest:
        hosts = urlsplit(value).netloc.rpartition("@")[2]
        if not all(_HOST.match(host) for host in hosts.split(",")):
            raise ValueError("a port of it is no number; is every / ? # and @ in the password percent-encoded?")
        return value
    raise ValueError("it is neither a postgresql:// URL, nor sqlite:///path/of/a/file, nor none")


def targets(value: Any, read_secret_file: ReadSecret) -> tuple[TargetSpec, ...]:
    """Return the targets of a mapping of names, with the secrets that their files hold.

    Raises:
        ValueError: it is no mapping.
        Faults: everything that is wrong with it.
    """
    if not isinstance(value, Mapping):
        raise ValueError("it must be a mapping of names to targets")  # noqa: TRY004 - as settings
    faults: list[str] = []
    found = [_target(str(name), entry, faults, read_secret_file) for name, entry in value.items()]
    if faults:
        raise Faults(faults)
    return tuple(spec for spec in found if spec is not None)


def _target(name: str, entry: Any, faults: list[str], read_secret_file: ReadSecret) -> TargetSpec | None:
    if not _NAME.match(name):
        faults.append(f"{name[:80]!r}: a target's name is 1 to 64 letters, digits, dots, hyphens or underscores")
        return None
    section = Section(entry, name, _KEYS, faults)
    url = section.need("url", _url)
    auth, oauth2 = _auth(section, read_secret_file)
    default = TargetSpec(name=name, url="")
    return TargetSpec(
        name=name,
        url=url or "",
        timeout=_timeout(section),
        concurrency=section.read("concurrency", integer(1, 10_000), default.concurrency),
        rate_limit=_rate_limit(section),
        retry=_retry(section),
        breaker=_breaker(section),
        auth=auth,
        signing=_signing(section, read_secret_file),
        retention=_retention(section),
        replay_key=section.read("replay_key", choice("keep", "new"), default.replay_key),
        group_by=section.read("group_by", _label, default.group_by),
        group=group_default(section, "group"),
        outbound=outbound_policy(section, oauth2, read_secret_file),
    )


def _label(value: Any) -> str:
    name = value.removeprefix("labels.") if isinstance(value, str) and value.startswith("labels.") else ""
    if not 1 <= len(name) <= MAX_LABEL_NAME or not name.isprintable():
        raise ValueError(f"{value!r} is not labels.NAME, with the name of a label")
    return name


def _timeout(target: Section) -> Timeouts:
    section, default = target.section("timeout", ("connect", "total")), Timeouts()
    if section is None:
        return default
    timeouts = Timeouts(
        connect_s=section.read("connect", duration(0.001, 3600), default.connect_s),
        total_s=section.read("total", duration(0.001, 24 * 3600), default.total_s),
    )
    if "connect" in section and timeouts.connect_s > timeouts.total_s:
        shown = f"{section.path_of('total')} ({duration_text(timeouts.total_s)})"
        section.refuse("connect", f"it is longer than {shown}, which includes it")
    return timeouts


def _rate_limit(target: Section) -> RateLimit | None:
    section = target.section("rate_limit", ("max", "per"))
    if section is None:
        return None
    most, per_s = section.need("max", integer(1, 1_000_000)), section.need("per", duration(0.001, 24 * 3600))
    return None if most is None or per_s is None else RateLimit(most, per_s)


def _retry(target: Section) -> RetryPolicy:
    section = target.section(
        "retry", ("max_attempts", "backoff", "base", "max", "jitter", "schedule", "retry_on", "fail_on")
    )
    default = RetryPolicy()
    if section is None:
        return default
    policy = RetryPolicy(
        max_attempts=section.read("max_attempts", integer(1, 10_000), default.max_attempts),
        backoff=section.read("backoff", choice("exponential", "fixed"), default.backoff),
        base_s=section.read("base", duration(0.0, _YEAR_S), default.base_s),
        max_s=section.read("max", duration(0.0, _YEAR_S), default.max_s),
        jitter=section.read("jitter", _share, default.jitter),
        schedule=section.read("schedule", _schedule, default.schedule),
        retry_on=section.read("retry_on", _statuses, RETRIED),
        fail_on=section.read("fail_on", _statuses, default.fail_on),
    )
    if policy.schedule:
        _beside_a_schedule(section, policy)
    elif policy.base_s > policy.max_s and "base" in section:
        section.refuse("base", f"it is longer than {section.path_of('max')} ({policy.max_s:g}s)")
    beaten = first_beaten(section.read("retry_on", _as_given, None), section.read("fail_on", _as_given, None))
    if beaten is not None:
        section.refuse("retry_on", f"{section.path_of('fail_on')} has {beaten[1]} too, and wins; leave one of them out")
    return policy


def _beside_a_schedule(section: Section, policy: RetryPolicy) -> None:
    """Note the settings that a schedule and another one make ineffective."""
    for key in ("base", "backoff"):
        if key in section:
            section.refuse("schedule", f"it replaces {section.path_of(key)}; leave one of them out")
    longest_s = max(policy.schedule)
    if "max" in section and longest_s > policy.max_s:
        shown = f"{section.path_of('max')} ({duration_text(policy.max_s)})"
        section.refuse("schedule", f"its wait of {duration_text(longest_s)} is longer than {shown}")
    if len(policy.schedule) >= policy.max_attempts:
        most, given = section.path_of("max_attempts"), len(policy.schedule)
        fault = f"{most} ({policy.max_attempts}) leaves time for {policy.max_attempts - 1} of its {given} waits"
        section.refuse("schedule", fault)


def _as_given(value: Any) -> Any:
    return value


def _breaker(target: Section) -> BreakerPolicy | None:
    # YAML makes `false` of a plain `off`.
    if target.read("breaker", lambda value: value is False or value == "off", default=False):
        return None
    section = target.section(
        "breaker", ("failures", "failure_rate", "min_attempts", "window", "open_for", "half_open_probes")
    )
    default = BreakerPolicy()
    if section is None:
        return default
    return BreakerPolicy(
        failures=section.read("failures", integer(1, 1000), default.failures),
        failure_rate=section.read("failure_rate", _rate, default.failure_rate),
        min_attempts=section.read("min_attempts", integer(1, 1_000_000), default.min_attempts),
        window_s=section.read("window", duration(0.001, 24 * 3600), default.window_s),
        open_for_s=section.read("open_for", duration(0.001, 24 * 3600), default.open_for_s),
        half_open_probes=section.read("half_open_probes", integer(1, 1000), default.half_open_probes),
    )


def _auth(target: Section, read_secret_file: ReadSecret) -> tuple[TargetAuth, ClientCredentials | None]:
    section = target.section("auth", ("scheme", "header", *OAUTH_KEYS))
    scheme = None if section is None else section.need("scheme", choice(*_SCHEMES))
    if section is None or scheme is None:
        return TargetAuth(), None
    if scheme == "oauth2":
        if "header" in section:
            section.refuse("header", "only the scheme header has one")
        return TargetAuth(scheme="oauth2"), client_credentials(section, read_secret_file)
    for key in OAUTH_KEYS:
        if key != "secret_file" and key in section:
            section.refuse(key, "only the scheme oauth2 has one")
    return _with_secret(section, scheme, read_secret_file), None


def _with_secret(section: Section, scheme: AuthScheme, read_secret_file: ReadSecret) -> TargetAuth:
    header = None
    if scheme == "header":
        header = section.need("header", _header)
    elif "header" in section:
        section.refuse("header", "only the scheme header has one")
    if scheme not in _WITH_SECRET:
        if "secret_file" in section:
            section.refuse("secret_file", f"the scheme {scheme} has no secret")
        return TargetAuth(scheme=scheme)
    file = section.need("secret_file", text)
    secret = (
        section.need("secret_file", lambda value: _secret(scheme, read_secret_file(Path(value))))
        if file is not None
        else None
    )
    return TargetAuth(scheme=scheme, secret=secret or "", secret_file=file, header=header)


def _signing(target: Section, read_secret_file: ReadSecret) -> Signing | None:
    section = target.section("signing", ("secret_file",))
    if section is None:
        return None
    file = section.need("secret_file", text)
    secrets = (
        section.need("secret_file", lambda value: _signing_secrets(value, read_secret_file(Path(value))))
        if file is not None
        else None
    )
    return None if file is None or secrets is None else Signing(secret_file=file, secrets=secrets)


def _retention(target: Section) -> Retention:
    section, default = target.section("retention", ("delivered", "dead_lettered", "cancelled")), Retention()
    if section is None:
        return default
    parse = duration(0.0, 100 * _YEAR_S)
    return Retention(
        delivered_s=section.read("delivered", parse, default.delivered_s),
        dead_lettered_s=section.read("dead_lettered", parse, default.dead_lettered_s),
        cancelled_s=section.read("cancelled", parse, default.cancelled_s),
    )


def _signing_secrets(file: str, text: str) -> tuple[Secret, ...]:
    """Return the secrets in a file, one per line."""
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
    url = text(value)
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
    name = text(value)
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
        if isinstance(item, str) and item in CLASSES:
            found.update(CLASSES[item])
        elif isinstance(item, int) and not isinstance(item, bool) and 300 <= item <= 599:
            found.add(item)
        else:
            raise ValueError(f'{item!r} is neither a status from 300 to 599 nor "3xx", "4xx" or "5xx"')
    return frozenset(found)


def _schedule(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_WAITS:
        raise ValueError(f'it must be a list of 1 to {_MOST_WAITS} durations, such as ["5s", "5m", "2h"]')
    parse = duration(0.0, _YEAR_S)
    return tuple(parse(item) for item in value)


def _rate(value: Any) -> float:
    rate = _share(value)
    if not rate:
        raise ValueError("it must be above 0; breaker: off has no breaker")
    return rate


def _share(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not a number from 0 to 1")
    return float(value)
