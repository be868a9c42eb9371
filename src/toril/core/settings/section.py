"""Reads nested mappings of the configuration file: each fault with its path, unknown keys with the nearest known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from toril.core.settings.setting import Default, Faults
from toril.core.suggestions import did_you_mean

T = TypeVar("T")


class Section:
    """One mapping as it is read. `faults` collects what is wrong, each text beginning with the path that it is about.

    Args:
        value: what the file has there.
        path: where that is, such as `billing.timeout`; empty if the caller says it.
        known: the keys that it may have.
    """

    def __init__(self, value: Any, path: str, known: Sequence[str], faults: list[str]) -> None:
        self.faults = faults
        self._path = path
        self._given: dict[str, Any] = {}
        self._is_mapping = isinstance(value, Mapping)
        if not isinstance(value, Mapping):
            self._note(f"it must be a mapping with some of {', '.join(known)}")
            return
        for name, part in value.items():
            key = str(name)
            if key in known:
                self._given[key] = part
            else:
                self._note(f"unknown key {key}{did_you_mean(key, known)}")

    def __contains__(self, key: str) -> bool:
        return key in self._given

    def path_of(self, key: str) -> str:
        """Return the path of a key."""
        return f"{self._path}.{key}" if self._path else key

    def refuse(self, key: str, fault: str) -> None:
        """Note that the value of a key is not valid."""
        self.faults.append(f"{self.path_of(key)}: {fault}")

    def read(self, key: str, parse: Callable[[Any], T | Default], default: T) -> T:
        """Return a value; the default where it is not given, or wrong, which is noted."""
        if key not in self._given:
            return default
        try:
            parsed = parse(self._given[key])
        except Faults as exc:
            for fault in exc.faults:
                self.refuse(key, fault)
        except ValueError as exc:
            self.refuse(key, str(exc))
        else:
            return default if isinstance(parsed, Default) else parsed
        return default

    def need(self, key: str, parse: Callable[[Any], T | Default]) -> T | None:
        """Return a value that must be there; None if it is not, or wrong, which is noted."""
        if key not in self._given:
            if self._is_mapping:
                self._note(f"{key} is missing")
            return None
        return self.read(key, parse, None)

    def section(self, key: str, known: Sequence[str]) -> Section | None:
        """Return a mapping inside; None if it is not given."""
        if key not in self._given:
            return None
        return Section(self._given[key], self.path_of(key), known, self.faults)

    def _note(self, fault: str) -> None:
        self.faults.append(f"{self._path}: {fault}" if self._path else fault)
