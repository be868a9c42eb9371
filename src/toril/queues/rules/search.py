"""The language in which jobs are searched for: `data.customer.id = 42 and failedReason ~ timeout`.

A condition is a path, an operator and a value, or a path and `exists`. Paths begin with a field of a job's JSON, and go
on into it; where a list stands in the way, one element that fits is enough. Conditions are joined by `and`, `or`,
`not` and parentheses; `and` binds closer than `or`.

`=` and `!=` compare values: an unquoted 42 is the number and the text alike, a quoted one is text. `<`, `<=`, `>` and
`>=` compare numbers, or moments where the field is one. `~` asks whether a text holds another one, in any case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from toril.core.stored_job import Fields

MAX_LENGTH = 2000
"""How many characters a search may have."""
MAX_CONDITIONS = 50
_DEEPEST = 30

_TEXTS = {"name": b"name", "failedReason": b"failedReason", "processedBy": b"pb", "parentKey": b"parentKey",
          "repeatJobKey": b"rjk", "deduplicationId": b"deid"}  # fmt: skip
_NUMBERS = {"attemptsMade": b"atm", "attemptsStarted": b"ats", "stalledCounter": b"stc", "priority": b"priority",
            "delay": b"delay"}  # fmt: skip
_MOMENTS = {"timestamp": b"timestamp", "processedOn": b"processedOn", "finishedOn": b"finishedOn"}
_JSON = {"data": b"data", "opts": b"opts", "progress": b"progress", "returnvalue": b"returnvalue",
         "stacktrace": b"stacktrace", "parent": b"parent"}  # fmt: skip
_STORED = {**_TEXTS, **_NUMBERS, **_MOMENTS, **_JSON}
_ROOTS = ("id", *_STORED)
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_WORDS = frozenset(("and", "or", "not", "exists"))
_TOKEN = re.compile(r"""\s*(?:(?P<op>!=|<=|>=|=|<|>|~|\(|\))|(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>[^\s()=!<>~"]+))""")
_decode = msgspec.json.Decoder().decode
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class NotUnderstood(ValueError):
    """A search that cannot be read. The message says at which character it stopped, counted from 1."""

    def __init__(self, fault: str, at: int) -> None:
        super().__init__(f"{fault}, at character {at + 1}")
        self.at = at


class _Token(Struct, frozen=True):
    kind: str
    text: str
    at: int


class Condition:
    """A search that has been read. `fields` are the parts of a job's hash that it looks at."""

    __slots__ = ("_root", "fields")

    def __init__(self, root: _Node, fields: frozenset[bytes]) -> None:
        self._root = root
        self.fields = fields

    def matches(self, job_id: str, fields: Fields) -> bool:
        """Return True if a job is one of those that are searched for. It needs only `fields` of the job's hash."""
        return self._root.holds(_Job(job_id, fields))


def read_search(text: str) -> Condition:
    """Read a search.

    Raises:
        NotUnderstood: it is none.
    """
    if len(text) > MAX_LENGTH:
        raise NotUnderstood(f"A search has at most {MAX_LENGTH} characters", MAX_LENGTH)
    reader = _Reader(list(_tokens(text)), len(text))
    root = reader.either(0)
    reader.end()
    return Condition(root, frozenset(reader.fields))


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    end = len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            quoted = text[start] == '"'
            raise NotUnderstood(
                "A quoted text does not end" if quoted else f"{text[start]!r} has no meaning here", start
            )
        kind = str(found.lastgroup)
        yield _Token(kind, found.group(kind), found.start(kind))
        at = found.end()


class _Job:
    """A job while it is looked at: what is JSON is decoded once."""

    __slots__ = ("_decoded", "_fields", "_id")

    def __init__(self, job_id: str, fields: Mapping[bytes, bytes]) -> None:
        self._id = job_id
        self._fields = fields
        self._decoded: dict[str, Any] = {}

    def value(self, root: str) -> Any:
        """Return a field of the job's JSON, or `_ABSENT`."""
        if root == "id":
            return self._id
        if root in self._decoded:
            return self._decoded[root]
        stored = self._fields.get(_STORED[root])
        value = self._decoded[root] = _ABSENT if stored is None else _as_value(root, stored)
        return value


_ABSENT = object()


def _as_value(root: str, stored: bytes) -> Any:
    if root in _TEXTS:
        return stored.decode(errors="replace")
    try:
        return _decode(stored)
    except _NOT_JSON:
        return stored.decode(errors="replace")


def _reach(value: Any, steps: tuple[str, ...]) -> Iterator[Any]:
    """Yield the values at the end of a path; several if there are lists on the way."""
    for number, step in enumerate(steps):
        if isinstance(value, dict):
            if step not in value:
                return
            value = value[step]
        elif isinstance(value, list):
            if step.isdigit() and int(step) < len(value):
                value = value[int(step)]
                continue
            for element in value:
                yield from _reach(element, steps[number:])
            return
        else:
            return
    yield value


class _Node(Protocol):
    """A part of a search."""

    def holds(self, job: _Job) -> bool:
        """Return True if the job fits."""
        ...


class _All:
    def __init__(self, parts: list[_Node]) -> None:
        self._parts = parts

    def holds(self, job: _Job) -> bool:
        return all(part.holds(job) for part in self._parts)


class _Any:
    def __init__(self, parts: list[_Node]) -> None:
        self._parts = parts

    def holds(self, job: _Job) -> bool:
        return any(part.holds(job) for part in self._parts)


class _Not:
    def __init__(self, part: _Node) -> None:
        self._part = part

    def holds(self, job: _Job) -> bool:
        return not self._part.holds(job)


class _Test:
    """A path, and what one of the values at its end has to be."""

    def __init__(self, root: str, steps: tuple[str, ...], fits: Callable[[Any], bool]) -> None:
        self._root = root
        self._steps = steps
        self._fits = fits

    def holds(self, job: _Job) -> bool:
        value = job.value(self._root)
        if value is _ABSENT:
            return False
        if not self._steps:
            return self._fits(value) or (isinstance(value, list) and any(map(self._fits, value)))
        for found in _reach(value, self._steps):
            if self._fits(found) or (isinstance(found, list) and any(map(self._fits, found))):
                return True
        return False


class _Reader:
    """Reads tokens by recursive descent."""

    def __init__(self, tokens: list[_Token], length: int) -> None:
        self._tokens = tokens
        self._length = length
        self._next = 0
        self._conditions = 0
        self.fields: set[bytes] = set()

    def end(self) -> None:
        """Check that nothing is left."""
        token = self._peek()
        if token is not None:
            raise NotUnderstood(f"{token.text!r} is one too many; conditions are joined by and, or", token.at)

    def either(self, depth: int) -> _Node:
        """Read what is joined by `or`."""
        parts = [self._both(depth)]
        while self._take_word("or"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else _Any(parts)

    def _both(self, depth: int) -> _Node:
        parts = [self._one(depth)]
        while self._take_word("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else _All(parts)

    def _one(self, depth: int) -> _Node:
        token = self._take("a condition, such as data.customer.id = 42")
        if depth > _DEEPEST:
            raise NotUnderstood("This is nested too deeply", token.at)
        if token.kind == "word" and token.text.lower() == "not":
            return _Not(self._one(depth + 1))
        if token.kind == "op" and token.text == "(":
            inner = self.either(depth + 1)
            closing = self._take("a closing parenthesis")
            if closing.text != ")" or closing.kind != "op":
                raise NotUnderstood("A closing parenthesis is missing", closing.at)
            return inner
        if token.kind == "word" and token.text.lower() == "exists":
            path = self._take("a path, such as data.customer.id")
            return self._test(path, lambda _: True)
        return self._condition(token)

    def _condition(self, path: _Token) -> _Node:
        operator = self._take(f"an operator behind {path.text}: one of = != < <= > >= ~ exists")
        if operator.kind == "word" and operator.text.lower() == "exists":
            return self._test(path, lambda _: True)
        if operator.kind != "op" or operator.text in "()":
            raise NotUnderstood(f"{operator.text!r} is no operator; = != < <= > >= ~ exists are", operator.at)
        value = self._take(f"a value behind {operator.text}")
        if value.kind == "op":
            raise NotUnderstood(f"{value.text!r} is no value; a text with such characters stands in quotes", value.at)
        is_moment = path.text in _MOMENTS
        match operator.text:
            case "=":
                return self._test(path, _equals(value, is_moment=is_moment))
            case "!=":
                return _Not(self._test(path, _equals(value, is_moment=is_moment)))
            case "~":
                return self._test(path, _contains(_text_of(value)))
            case _:
                return self._test(path, _ordered(operator.text, value, is_moment=is_moment))

    def _test(self, path: _Token, fits: Callable[[Any], bool]) -> _Node:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise NotUnderstood(f"A search has at most {MAX_CONDITIONS} conditions", path.at)
        if path.kind != "word" or path.text.lower() in _WORDS:
            raise NotUnderstood(f"{path.text!r} is no path; a path is such as data.customer.id", path.at)
        root, *steps = re.sub(r"\[(\d+)\]", r".\1", path.text).split(".")
        if root not in _ROOTS:
            near = get_close_matches(root, _ROOTS, 1)
            known = f"did you mean {near[0]}?" if near else f"paths begin with {', '.join(_ROOTS)}"
            raise NotUnderstood(f"A job has no {root}; {known}", path.at)
        if "" in steps:
            raise NotUnderstood(f"The path {path.text} has an empty part", path.at)
        if root in _STORED:
            self.fields.add(_STORED[root])
        return _Test(root, tuple(steps), fits)

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self, expected: str) -> _Token:
        token = self._peek()
        if token is None:
            raise NotUnderstood(f"Expected {expected}", self._length)
        self._next += 1
        return token

    def _take_word(self, word: str) -> bool:
        token = self._peek()
        if token is None or token.kind != "word" or token.text.lower() != word:
            return False
        self._next += 1
        return True


def _text_of(value: _Token) -> str:
    if value.kind != "text":
        return value.text
    try:
        return str(_decode(value.text.encode()))
    except _NOT_JSON:
        raise NotUnderstood("This text has an escape that JSON does not know", value.at) from None


def _number_of(value: _Token, *, is_moment: bool) -> float | None:
    text = _text_of(value)
    try:
        return float(text) if value.kind == "word" or is_moment else None
    except ValueError:
        pass
    if not is_moment:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.timestamp() * 1000


def _equals(value: _Token, *, is_moment: bool) -> Callable[[Any], bool]:
    text = _text_of(value)
    number = _number_of(value, is_moment=is_moment)
    literal = {"true": True, "false": False, "null": None}.get(text, _ABSENT) if value.kind == "word" else _ABSENT

    def fits(found: Any) -> bool:
        if isinstance(found, str):
            return found == text
        if found is None or isinstance(found, bool):
            return found is literal
        return number is not None and isinstance(found, (int, float)) and found == number

    return fits


def _contains(text: str) -> Callable[[Any], bool]:
    wanted = text.casefold()

    def fits(found: Any) -> bool:
        if isinstance(found, str):
            return wanted in found.casefold()
        return not isinstance(found, list) and wanted in msgspec.json.encode(found).decode().casefold()

    return fits


def _ordered(operator: str, value: _Token, *, is_moment: bool) -> Callable[[Any], bool]:
    number = _number_of(value, is_moment=is_moment)
    if number is None:
        kind = "neither a number nor a moment such as 2026-11-29T08:00:00Z" if is_moment else "no number"
        raise NotUnderstood(f"{value.text} is {kind}, so {operator} cannot compare with it", value.at)
    compare = _ORDER[operator]

    def fits(found: Any) -> bool:
        return isinstance(found, (int, float)) and not isinstance(found, bool) and compare(found, number)

    return fits
