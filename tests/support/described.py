"""Holds JSON answers to the types that the OpenAPI document describes: nothing may be missing, nothing undescribed."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from toril.web.openapi.document import Served

JSON = "application/json"


def held_to(kind: Any, text: str | bytes) -> Any:
    """Return the value of a JSON text. Fails where its type does not describe all of it."""
    value = msgspec.json.decode(text)
    described = msgspec.to_builtins(msgspec.convert(value, kind))
    assert _covers(described, value), f"{kind} does not describe {text!r}, but {msgspec.json.encode(described)!r}"
    return value


def _covers(described: Any, value: Any) -> bool:
    """Whether all of a value is in what its type makes of it; that may have further fields, null by default."""
    if isinstance(value, dict) and isinstance(described, dict):
        return value.keys() <= described.keys() and all(_covers(described[key], value.get(key)) for key in described)
    if isinstance(value, list) and isinstance(described, list | tuple):
        return len(value) == len(described) and all(map(_covers, described, value))
    return bool(described == value)


class DescribedAnswers:
    """The types of all JSON answers of an instance that are not errors; `left` are those that no answer was held to."""

    def __init__(self, served: Served) -> None:
        self._kinds = dict(_kinds(served))
        self.left = set(self._kinds)

    def hold(self, method: str, path: str, status: int, text: str | bytes) -> Any:
        """Return the value of an answer to a request. Fails where its route does not describe it."""
        found = [
            key
            for key in self._kinds
            if key[0] == method and key[2] == status and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", key[1]), path)
        ]
        fixed = min(found, key=lambda key: key[1].count("{"), default=None)
        assert fixed is not None, f"{method} {path} does not describe an answer {status}: {text!r}"
        self.left.discard(fixed)
        return held_to(self._kinds[fixed], text)


def _kinds(served: Served) -> Iterator[tuple[tuple[str, str, int], Any]]:
    """Yield method, path template and status of each JSON answer, and its type."""
    routes = [
        (route.method, served.under + route.path, route.about.answers)
        for route in served.routes
        if route.about is not None
    ]
    if served.proxy is not None:
        routes += [(route.method, route.template, route.about.answers) for route in served.proxy.routes]
    for method, path, answers in routes:
        for answer in answers:
            if answer.kind is not None and answer.content_type == JSON and isinstance(answer.status, int):
                yield (method, path, answer.status), answer.kind
