"""What a scenario is, and what one run of it gives. Data only: `scenarios` makes it, `report` shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Figures = dict[str, float]


class Skipped(Exception):
    """This contender cannot take part here; the text says why."""


@dataclass(frozen=True)
class Measurement:
    """The figures of one run by column key, and what a reader must know about them."""

    figures: Figures
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """One figure: its key, its heading with unit, digits after the point, and a goal to print beside it."""

    key: str
    heading: str
    digits: int = 0
    at_most: float | None = None


@dataclass(frozen=True)
class Contender:
    """Whoever runs a scenario: a target, or a ceiling to divide targets by (`goal`: the ratio to reach)."""

    name: str
    run: Callable[[float], Measurement]
    ceiling: bool = False
    goal: float | None = None


@dataclass(frozen=True)
class Scenario:
    """What is measured, for whom, and which figure ratios are made of (none: no ratios).

    Runs of `warm_up_s` come first and are thrown away, so that no target is measured cold. `once` scenarios run
    once, before all others: memory that load has left behind in a process would hide what workers take.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    contenders: tuple[Contender, ...]
    headline: str | None = "per_s"
    warm_up_s: float = 0.0
    once: bool = False


@dataclass
class Result:
    """A scenario with everything measured so far: per contender, one measurement a round."""

    scenario: Scenario
    runs: dict[str, list[Measurement]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
