"""The `tokens:` of the configuration file: names, hashes, rights, queues, and until when. No secrets in faults."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from toril.core.access import Caller, Grant, RateLimit, Right, rights
from toril.core.settings.section import Section
from toril.core.settings.setting import Faults
from toril.core.settings.values import duration, integer

PLAIN_NAME = "AUTH_TOKENS"
"""The name of callers with a token of AUTH_TOKENS; no other token may have it."""

_KEYS = ("name", "sha256", "allow", "queues", "rate_limit", "expires")
_NEEDED = _KEYS[:4]
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z")
_MOST_REQUESTS = 1_000_000
_YEAR_S = 366 * 86400.0


def grants(value: Any) -> tuple[Grant, ...]:
    """Return what a list of tokens grants.

    Raises:
        ValueError: it is no list.
        Faults: everything that is wrong with it, each with the number (from 1) and the name of the token.
    """
    if not isinstance(value, list):
        raise ValueError("it must be a list of tokens, each with " + ", ".join(_NEEDED))  # noqa: TRY004 - as settings
    faults: list[str] = []
    found: list[Grant] = []
    numbers: dict[bytes, int] = {}
    for number, entry in enumerate(value, 1):
        own: list[str] = []
        sha256, grant = _grant(entry, own)
        if grant is not None:
            found.append(grant)
        if sha256 is not None and (first := numbers.setdefault(sha256, number)) != number:
            own.append(f"sha256 is that of number {first} too")
        faults.extend(f"number {number}{_label(entry)}: {fault}" for fault in own)
    if faults:
        raise Faults(faults)
    return tuple(found)


def line(name: str, token: str, allow: Sequence[str], queues: Sequence[str]) -> str:
    """Return a token as a line to paste below `tokens:`.

    Raises:
        Faults: it would not be accepted there.
    """
    entry: dict[str, Any] = {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest()}
    entry |= {"allow": list(allow), "queues": list(queues)}
    grants([entry])
    # JSON is YAML; bare keys read better.
    return "- {" + ", ".join(f"{key}: {json.dumps(entry[key])}" for key in entry) + "}"


def _label(entry: Any) -> str:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return f" ({name})" if isinstance(name, str) and _NAME.match(name) else ""


def _grant(entry: Any, faults: list[str]) -> tuple[bytes | None, Grant | None]:
    """Return the hash of an entry, and what it grants; None if the entry is not valid."""
    section = Section(entry, "", _KEYS, faults)
    if not isinstance(entry, Mapping):
        return None, None
    name = section.need("name", _name)
    sha256 = section.need("sha256", _sha256)
    allowed = section.need("allow", _rights)
    queues = section.need("queues", _globs)
    rate_limit = _rate_limit(section)
    expires_at_s = section.read("expires", _moment, None)
    if name is None or sha256 is None or allowed is None or queues is None:
        return sha256, None
    return sha256, Grant(sha256, Caller(name, allowed, queues, rate_limit), expires_at_s)


def _rate_limit(token: Section) -> RateLimit | None:
    section = token.section("rate_limit", ("max", "per"))
    if section is None:
        return None
    most = section.need("max", integer(1, _MOST_REQUESTS))
    per_s = section.need("per", duration(0.001, _YEAR_S))
    return None if most is None or per_s is None else RateLimit(most, per_s)


def _rights(value: Any) -> frozenset[Right]:
    patterns = _list_of(value, "rights")
    faults = []
    for pattern in patterns:
        try:
            rights([pattern])
        except ValueError as exc:
            faults.append(str(exc))
    if faults:
        raise Faults(faults)
    return rights(patterns)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.match(value):
        raise ValueError("it must be 1 to 64 letters, digits, dots, hyphens or underscores")
    if value == PLAIN_NAME:
        raise ValueError(f"{PLAIN_NAME} is what callers with a token of {PLAIN_NAME} are called")
    return value


def _sha256(value: Any) -> bytes:
    # The value is never repeated: it may be the token itself, put here by mistake.
    if not isinstance(value, str) or not _SHA256.match(value):
        raise ValueError("it must be a text of 64 hexadecimal digits, in quotes (toril token makes one)")
    return bytes.fromhex(value)


def _globs(value: Any) -> tuple[str, ...]:
    return tuple(_list_of(value, "queues"))


def _list_of(value: Any, what: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(part, str) and part for part in value):
        raise ValueError(f"it must be a list of {what}, at least one")
    return value


def _moment(value: Any) -> float:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("it must be a date, a time and a time zone, such as 2027-01-01T00:00:00Z")
    return value.timestamp()
