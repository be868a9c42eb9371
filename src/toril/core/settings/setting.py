"""One setting: its key, its environment variables, how its value is read, and whether a reload applies it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct


class Default:
    """The value of a key that is given but means the default."""


DEFAULT: Final = Default()

Parse = Callable[[Any], Any]
"""Reads a value of the file or of the environment; raises ValueError, or `Faults`, where it is not valid."""


class Faults(ValueError):
    """Several things are wrong with one setting."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = list(faults)


class Setting(Struct, frozen=True):
    """One setting.

    `target` is the field of `toril.config.settings.Settings` that it sets, as a path (`store.queue_prefix`). A reload
    applies it `at_once`, or leaves it for a restart.
    """

    key: str
    target: str
    parse: Parse
    env: tuple[str, ...] = ()
    at_once: bool = False
