"""Exemplars: for a bucket of a histogram, the latest trace in which a value of it was measured."""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from toril.core.http.headers import Header

_PARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")
_SAMPLED = 1
_VERSIONS = ("0.0.1", "1.0.0")


class Exemplar(Struct, frozen=True, array_like=True):
    """A measured value, when that was (wall clock), and its span. The ids are hex digits."""

    value: float
    at_s: float
    trace_id: str
    span_id: str


def exemplar_of(context: Iterable[Header], value: float, at_s: float) -> Exemplar | None:
    """Return the exemplar of a value that was measured in this context; None where its trace is not kept."""
    for name, text in context:
        if name == b"traceparent":
            found = _PARENT.match(text)
            if found is None or not int(found[3], 16) & _SAMPLED:
                return None
            return Exemplar(value, at_s, found[1].decode(), found[2].decode())
    return None


def latest(first: Exemplar | None, second: Exemplar) -> Exemplar:
    """Return the later one of two."""
    return second if first is None or second.at_s >= first.at_s else first


def asks_for_open_metrics(accept: str) -> bool:
    """Return True if an `Accept` header (RFC 9110 12.5.1) names OpenMetrics, and likes it as well as plain text."""
    liked = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.lower().split(","):
        kind, *given = (piece.strip() for piece in part.split(";"))
        parameters = dict(_pair(piece) for piece in given)
        if kind in liked and (kind == "text/plain" or parameters.get("version", _VERSIONS[0]) in _VERSIONS):
            liked[kind] = max(liked[kind], _quality(parameters.get("q", "1")))
    openly, plainly = liked.values()
    return openly > 0 and openly >= plainly


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value.strip().strip('"')


def _quality(text: str) -> float:
    return float(text) if re.fullmatch(r"[01](\.[0-9]{0,3})?", text) else 0.0
