"""Bounds the answer of a tool, since an agent reads all of it."""

from __future__ import annotations

from typing import Any

import msgspec

MOST_BYTES = 48 * 1024
"""How long the JSON text of an answer may be."""
NOTE = "Texts and lists that end with … were cut. Ask for less at a time, or read the rest over HTTP."
_DEEPEST = 12
# How many characters of a text and how many items of a list or an object are kept: the first pair that makes the
# answer short enough. What a tool answers has few levels, so the last pair always does.
_STEPS = ((4000, 200), (1000, 100), (300, 50), (100, 25), (40, 10), (20, 4))
_encode = msgspec.json.Encoder().encode


def shortened(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer, cut where it is too long; `note` then says so."""
    if _size(answer) <= MOST_BYTES and not _is_deep(answer, 0):
        return answer
    for characters, items in _STEPS:
        cut = {name: _cut(value, characters, items, 1) for name, value in answer.items()} | {"note": NOTE}
        if _size(cut) <= MOST_BYTES:
            return cut
    return {"note": f"The answer is longer than {MOST_BYTES} bytes. Ask for less at a time."}


def _size(answer: dict[str, Any]) -> int:
    return len(_encode(answer))


def _is_deep(value: Any, depth: int) -> bool:
    if depth > _DEEPEST:
        return True
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_is_deep(part, depth + 1) for part in below)


def _cut(value: Any, characters: int, items: int, depth: int) -> Any:
    if isinstance(value, str):
        return cut_text(value, characters)
    if isinstance(value, (dict, list)) and depth > _DEEPEST:
        return "…"
    if isinstance(value, dict):
        kept: dict[str, Any] = {
            cut_text(name, characters): _cut(part, characters, items, depth + 1)
            for name, part in list(value.items())[:items]
        }
        return kept | {"…": f"{len(value) - items} more"} if len(value) > items else kept
    if isinstance(value, list):
        shown = [_cut(part, characters, items, depth + 1) for part in value[:items]]
        return [*shown, f"… {len(value) - items} more"] if len(value) > items else shown
    return value


def cut_text(text: str, most: int) -> str:
    """Return a text of at most so many characters, with a note of how many more there are."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters)"
