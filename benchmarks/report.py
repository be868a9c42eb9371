"""Tables and JSON of what was measured: medians, ranges, and ratios to the ceilings."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.measurement import Column, Contender, Measurement, Result


def median(runs: Sequence[Measurement], key: str) -> float | None:
    """The median of one figure over the rounds that have it."""
    values = [run.figures[key] for run in runs if key in run.figures]
    return statistics.median(values) if values else None


def ratio(result: Result, target: str, ceiling: str) -> tuple[float, float, float] | None:
    """Median, least and greatest of target over ceiling, divided round by round.

    Both ran within seconds of each other in each round, so a machine that was slow for a while slows both and
    the quotient stays.
    """
    key = result.scenario.headline
    if key is None:
        return None
    pairs = zip(result.runs.get(target, ()), result.runs.get(ceiling, ()), strict=False)
    quotients = [ours.figures[key] / theirs.figures[key] for ours, theirs in pairs if theirs.figures[key] > 0]
    if not quotients:
        return None
    return statistics.median(quotients), min(quotients), max(quotients)


def table(result: Result) -> str:
    """The scenario as text: contenders down, figures across; ceilings are marked with `=`."""
    scenario = result.scenario
    spread = scenario.headline is not None
    headings = ["", *(column.heading for column in scenario.columns), *(("min", "max") if spread else ())]
    rows = []
    for contender in scenario.contenders:
        runs = result.runs.get(contender.name, [])
        if not runs:
            continue
        cells = [_cell(median(runs, column.key), column) for column in scenario.columns]
        if scenario.headline is not None:
            values = [run.figures[scenario.headline] for run in runs]
            cells += [f"{min(values):,.0f}", f"{max(values):,.0f}"]
        rows.append([f"{'= ' if contender.ceiling else '  '}{contender.name}", *cells])
    goals = [
        f"{column.heading} at most {column.at_most:g}" for column in scenario.columns if column.at_most is not None
    ]
    lines = [scenario.title, *_aligned([headings, *rows])]
    lines += [f"  goals: {', '.join(goals)}"] if goals else []
    lines += [f"  {name}: skipped, {reason}" for name, reason in result.skipped.items()]
    lines += [f"  ! failed: {failure}" for failure in result.failed]
    for contender in scenario.contenders:
        for number, run in enumerate(result.runs.get(contender.name, ()), 1):
            lines += [f"  ! {contender.name}, round {number}: {note}" for note in run.notes]
    return "\n".join(lines)


def ratios_table(results: Sequence[Result]) -> str:
    """All targets over all ceilings, with the goals beside them; empty when there is nothing to divide."""
    rows = [["ratios, median of rounds", "", "ratio", "min", "max", "goal", ""]]
    for result in results:
        for target, ceiling in _pairs(result):
            quotient = ratio(result, target.name, ceiling.name)
            if quotient is None:
                continue
            goal = "" if ceiling.goal is None else f"{ceiling.goal:.2f}"
            met = "" if ceiling.goal is None else "reached" if quotient[0] >= ceiling.goal else "missed"
            what = f"  {result.scenario.name}: {target.name}"
            rows.append([what, f"/ {ceiling.name}", *(f"{value:.2f}" for value in quotient), goal, met])
    return "\n".join(_aligned(rows, left=2)) if len(rows) > 1 else ""


def document(results: Sequence[Result], machine: Mapping[str, object], settings: Mapping[str, object]) -> object:
    """Everything measured, every round of it, ready for JSON."""
    return {
        "machine": machine,
        "settings": settings,
        "scenarios": {r.scenario.name: _plain(r) for r in results},
    }


def _plain(result: Result) -> object:
    scenario = result.scenario
    contenders = {
        name: {
            "ceiling": any(contender.ceiling for contender in scenario.contenders if contender.name == name),
            "median": {key: median(runs, key) for key in sorted({key for run in runs for key in run.figures})},
            "runs": [run.figures for run in runs],
            "notes": [note for run in runs for note in run.notes],
        }
        for name, runs in result.runs.items()
    }
    ratios = []
    for target, ceiling in _pairs(result):
        quotient = ratio(result, target.name, ceiling.name)
        if quotient is not None:
            low_high = {"median": quotient[0], "min": quotient[1], "max": quotient[2]}
            ratios.append({"target": target.name, "ceiling": ceiling.name, **low_high, "goal": ceiling.goal})
    return {
        "title": scenario.title,
        "headline": scenario.headline,
        "columns": [{"key": one.key, "heading": one.heading, "digits": one.digits} for one in scenario.columns],
        "contenders": contenders,
        "ratios": ratios,
        "skipped": result.skipped,
        "failed": result.failed,
    }


def _pairs(result: Result) -> list[tuple[Contender, Contender]]:
    contenders = result.scenario.contenders
    return [(one, other) for one in contenders if not one.ceiling for other in contenders if other.ceiling]


def _cell(value: float | None, column: Column) -> str:
    return "-" if value is None else f"{value:,.{column.digits}f}"


def _aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Columns padded to one width each; the first `left` of them flush left, figures flush right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
