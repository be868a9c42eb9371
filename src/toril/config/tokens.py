"""The `tokens:` of the configuration file: each one's name, hash, rights, queues, and until when. No secrets in faults.

Called by `toril.config.settings` as the parser of one setting, and by `toril token`, which writes such a line.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from toril.core.access import Caller, Grant, RateLimit, Right, rights
from toril.core.durations import parse_duration_s

PLAIN_NAME = "AUTH_TOKENS"
"""What callers with a token of AUTH_TOKENS are called, and so nobody else."""

_KEYS = ("name", "sha256", "allow", "queues", "rate_limit", "expires")
_NEEDED = _KEYS[:4]
_LIMIT_KEYS = ("max", "per")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z")
_MOST_REQUESTS = 1_000_000


class Faults(ValueError):
    """Several things are wrong with one setting."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = list(faults)


def grants(value: Any) -> tuple[Grant, ...]:
    """What a list of tokens grants.

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
        reading = _Reading(entry)
        grant = reading.grant()
        if grant is not None:
            found.append(grant)
        if reading.sha256 is not None and (first := numbers.setdefault(reading.sha256, number)) != number:
            reading.faults.append(f"sha256 is that of number {first} too")
        faults.extend(f"number {number}{reading.label}: {fault}" for fault in reading.faults)
    if faults:
        raise Faults(faults)
    return tuple(found)


def line(name: str, token: str, allow: Sequence[str], queues: Sequence[str]) -> str:
    """A token as a line to paste below `tokens:`.

    Raises:
        Faults: it would not be accepted there.
    """
    entry: dict[str, Any] = {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest()}
    entry |= {"allow": list(allow), "queues": list(queues)}
    grants([entry])
    # JSON is YAML; bare keys read better.
    return "- {" + ", ".join(f"{key}: {json.dumps(entry[key])}" for key in entry) + "}"


class _Reading:
    """One entry as it is read, and what was wrong so far."""

    def __init__(self, entry: Any) -> None:
        self.faults: list[str] = []
        self.sha256: bytes | None = None
        self._entry: dict[str, Any] = {}
        if isinstance(entry, Mapping):
            self._entry = {str(key): value for key, value in entry.items()}
        else:
            self.faults.append("it must be a mapping with " + ", ".join(_NEEDED))
        name = self._entry.get("name")
        self.label = f" ({name})" if isinstance(name, str) and _NAME.match(name) else ""

    def grant(self) -> Grant | None:
        """What it grants; None where something is wrong."""
        if self.faults:
            return None
        self._check_keys(self._entry, _KEYS, _NEEDED, "")
        name = self._field("name", _name)
        self.sha256 = self._field("sha256", _sha256)
        allowed = self._field("allow", self._allowed)
        queues = self._field("queues", _globs)
        limit = self._field("rate_limit", self._limit)
        expires_at_s = self._field("expires", _moment)
        if self.faults or self.sha256 is None:
            return None
        return Grant(self.sha256, Caller(name, allowed, queues, limit), expires_at_s)

    def _field(self, key: str, parse: Callable[[Any], Any]) -> Any:
        if key not in self._entry:
            return None
        try:
            return parse(self._entry[key])
        except Faults as exc:
            self.faults.extend(exc.faults)
        except ValueError as exc:
            self.faults.append(f"{key}: {exc}")
        return None

    def _check_keys(self, given: Mapping[str, Any], known: Sequence[str], needed: Sequence[str], where: str) -> None:
        for key in given:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                self.faults.append(f"unknown key {where}{key}" + (f"; did you mean {where}{near[0]}?" if near else ""))
        self.faults.extend(f"{where}{key} is missing" for key in needed if key not in given)

    def _allowed(self, value: Any) -> frozenset[Right]:
        patterns = _texts(value, "rights")
        faults = []
        for pattern in patterns:
            try:
                rights([pattern])
            except ValueError as exc:
                faults.append(f"allow: {exc}")
        if faults:
            raise Faults(faults)
        return rights(patterns)

    def _limit(self, value: Any) -> RateLimit | None:
        if not isinstance(value, Mapping):
            raise ValueError('it must be like {max: 100, per: "1s"}')  # noqa: TRY004 - one kind of fault for the reader
        before = len(self.faults)
        self._check_keys({str(key): part for key, part in value.items()}, _LIMIT_KEYS, _LIMIT_KEYS, "rate_limit.")
        if len(self.faults) > before:
            return None
        most, per = value["max"], value["per"]
        if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= _MOST_REQUESTS:
            raise ValueError(f"max is not a whole number from 1 to {_MOST_REQUESTS}")
        if not isinstance(per, str):
            raise ValueError(f"per: {per!r} is not a duration such as 1s, 1m or 500ms")  # noqa: TRY004 - as above
        per_s = parse_duration_s(per)
        if not 0.001 <= per_s <= 366 * 86400:
            raise ValueError(f"per: {per!r} is not between 1ms and a year")
        return RateLimit(most, per_s)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.match(value):
        raise ValueError("it must be 1 to 64 letters, digits, dots, hyphens or underscores")
    if value == PLAIN_NAME:
        raise ValueError(f"{PLAIN_NAME} is what callers with a token of {PLAIN_NAME} are called")
    return value


def _sha256(value: Any) -> bytes:
    # Never repeated: somebody may have put the token itself here.
    if not isinstance(value, str) or not _SHA256.match(value):
        raise ValueError("it must be a text of 64 hexadecimal digits, in quotes (toril token makes one)")
    return bytes.fromhex(value)


def _globs(value: Any) -> tuple[str, ...]:
    return tuple(_texts(value, "queues"))


def _texts(value: Any, what: str) -> list[str]:
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
