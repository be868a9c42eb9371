"""Reads nested mappings of the configuration file: each fault with its path, unknown keys with the nearest known.

Called by the readers of single settings, which raise all faults of theirs at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from toril.config.tokens import Faults

T = TypeVar("T")


class Section:
    """One mapping as it is read. `faults` collects what is wrong, each text beginning with `path`."""

    def __init__(self, value: Any, path: str, known: Sequence[str], faults: list[str]) -> None:
        self.path = path
        self.faults = faults
        self._given: dict[str, Any] = {}
        if not isinstance(value, Mapping):
            faults.append(f"{path}: it must be a mapping with some of {', '.join(known)}")
            return
        for name, part in value.items():
            key = str(name)
            if key in known:
                self._given[key] = part
                continue
            near = difflib.get_close_matches(key, known, n=1)
            faults.append(f"{path}: unknown key {key}" + (f"; did you mean {near[0]}?" if near else ""))

    def __contains__(self, key: str) -> bool:
        return key in self._given

    def read(self, key: str, parse: Callable[[Any], T], default: T) -> T:
        """A value; the default where it is not given, or wrong, which is noted."""
        if key not in self._given:
            return default
        try:
            return parse(self._given[key])
        except Faults as exc:
            self.faults.extend(f"{self.path}.{key}: {fault}" for fault in exc.faults)
        except ValueError as exc:
            self.faults.append(f"{self.path}.{key}: {exc}")
        return default

    def need(self, key: str, parse: Callable[[Any], T]) -> T | None:
        """A value that must be there; None where it is not, or wrong, which is noted."""
        if key not in self._given:
            self.faults.append(f"{self.path}: {key} is missing")
            return None
        return self.read(key, parse, None)

    def section(self, key: str, known: Sequence[str]) -> Section | None:
        """A mapping inside; None where it is not given."""
        if key not in self._given:
            return None
        return Section(self._given[key], f"{self.path}.{key}", known, self.faults)
