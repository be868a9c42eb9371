"""What a run has shown, as tables in Markdown and as histories for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from benchmarks.histories.case import History
from benchmarks.histories.judge import DoorVerdict, Verdict, Violation
from benchmarks.histories.plan import Fault

_MOST_SHOWN = 20
_MOST_SILENCES = 10
_SILENCING = frozenset(
    {Fault.KILL_TORIL, Fault.FREEZE_TORIL, Fault.RESTART_TORIL, Fault.KILL_PROCESS, Fault.FREEZE_PROCESS}
)
_KINDS = ("lost", "doubled", "stale", "order", "illegal", "left")
UNAVOIDABLE = "its toril, or its pull worker, was gone between the answer and the record"
_COLUMNS = (
    "door",
    "accepted",
    "calls",
    "without an answer",
    "cancelled",
    "replayed",
    "requests that arrived",
    "alive during a fault",
    "begun again",
    "done more than once",
)


def report(history: History, verdict: Verdict, took_s: float) -> Iterator[str]:
    """Yield the report of a run, line by line."""
    versions = ", ".join(f"{name} {version}" for name, version in history.versions.items())
    kinds = Counter(violation.kind for violation in verdict.violations)
    said = ", ".join(f"{kind}: {kinds[kind]:,}" for kind in _KINDS)
    yield f"Seed {history.seed}, {len(history.harms):,} faults, {took_s:,.0f} s; {versions}."
    yield f"Against the promises: {said}. Jobs whose order was checked: {verdict.ordered:,}."
    yield ""
    yield f"| {' | '.join(_COLUMNS)} |"
    yield f"|{'---|' * len(_COLUMNS)}"
    for door, found in verdict.doors.items():
        yield f"| {door} | {' | '.join(_figures(found))} |"
    yield ""
    yield "| fault | times |"
    yield "|---|---|"
    for fault, number in sorted(Counter(harm.fault.value for harm in history.harms).items()):
        yield f"| {fault} | {number:,} |"
    yield from (f"| {untried} | not tried: the machine has not the means |" for untried in sorted(history.untried))
    yield ""
    yield from _silences(history)
    yield f"| what had hit the earlier attempt of a job that was begun again | {' | '.join(verdict.doors)} |"
    yield f"|---|{'---|' * len(verdict.doors)}"
    causes = sum((found.causes for found in verdict.doors.values()), Counter[str]())
    for cause, _ in causes.most_common():
        yield f"| {cause} | {' | '.join(f'{found.causes[cause]:,}' for found in verdict.doors.values())} |"
    yield ""
    yield from _done_again(verdict)


def _done_again(verdict: Verdict) -> Iterator[str]:
    """Yield why jobs were done more than once: what could not be avoided, and the rest."""
    doors = verdict.doors.values()
    yield f"| jobs that were done more than once | {' | '.join(verdict.doors)} |"
    yield f"|---|{'---|' * len(verdict.doors)}"
    for what, counters in (
        (UNAVOIDABLE, [found.unavoidable for found in doors]),
        ("the rest", [found.avoidable for found in doors]),
    ):
        shares = [_share(counter.total(), found.touched) for counter, found in zip(counters, doors, strict=True)]
        yield f"| **{what}** | {' | '.join(shares)} |"
        for cause, _ in sum(counters, Counter[str]()).most_common():
            yield f"| {cause} | {' | '.join(f'{counter[cause]:,}' for counter in counters)} |"


def _share(count: int, touched: int) -> str:
    return f"{count:,} ({count / max(1, touched):.3%} of those alive)"


def _silences(history: History) -> Iterator[str]:
    """Yield the longest times in which a toril answered nothing, though nothing was done to it."""
    of_one = [harm for harm in history.harms if harm.fault in _SILENCING]
    unexplained = [
        (began - ended, number, began, ended)
        for number, began, ended in history.silences
        if not any(harm.member == number and harm.began < ended and harm.ended > began for harm in of_one)
    ]
    if unexplained:
        yield f"Torils answered nothing for over a second, though they had not been harmed, {len(unexplained)} times:"
        yield ""
        for _, number, began, ended in sorted(unexplained)[:_MOST_SILENCES]:
            meanwhile = {harm.fault.value for harm in history.harms if harm.began < ended and harm.ended > began}
            faults = ", ".join(sorted(meanwhile)) or "no fault"
            yield f"- toril {number} for {ended - began:.1f} s from {began:.3f} on ({faults})"
        yield ""


def _figures(found: DoorVerdict) -> Iterator[str]:
    counts = (
        found.accepted, found.calls, found.unanswered, found.cancelled, found.replayed, found.arrivals, found.touched,
        found.begun_again,
    )  # fmt: skip
    yield from (f"{count:,}" for count in counts)
    yield f"{found.done_again:,} ({found.done_again / max(1, found.accepted):.3%} of all)"


def histories(violations: list[Violation]) -> Iterator[str]:
    """Yield the first failing histories."""
    for violation in violations[:_MOST_SHOWN]:
        yield f"! {violation.kind}: {violation.text}"
        if violation.case is not None:
            yield from violation.case.lines()
    if len(violations) > _MOST_SHOWN:
        yield f"! and {len(violations) - _MOST_SHOWN} more"
