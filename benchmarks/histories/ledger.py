"""Judges what the ledger tells of deliveries: legal steps, each attempt once, and delivered what was delivered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from benchmarks.histories.case import Case

_NEXT: dict[str | None, set[str]] = {
    None: {"queued"},
    "queued": {"dispatching", "cancelled", "dead_lettered"},
    "dispatching": {"delivered", "retrying", "queued", "cancelled", "dead_lettered"},
    "retrying": {"dispatching", "cancelled", "dead_lettered"},
    "dead_lettered": {"queued"},
    "delivered": set(),
    "cancelled": set(),
}


def recorded(case: Case) -> Iterator[tuple[str, str]]:
    """Yield where the ledger tells something else than what happened."""
    for job_id, final in case.finals.items():
        if final.status is None:
            continue
        if final.listed:
            come = {one.attempt for one in case.arrivals if one.job_id == job_id}
            if come != set(range(1, (final.attempts or 0) + 1)):
                yield "illegal", f"{job_id} has made {final.attempts} attempts, and {sorted(map(str, come))} came"
            continue
        before: str | None = None
        for number, (seq, source, to) in enumerate(final.transitions, 1):
            if seq != number or source != before or to not in _NEXT[source]:
                yield "illegal", f"{job_id}: transition {seq} from {source} to {to} follows {before}"
            before = to
        if before != final.status:
            yield "illegal", f"{job_id} is {final.status}, and its history ends in {before}"
        if final.numbers != list(range(1, len(final.numbers) + 1)):
            yield "illegal", f"{job_id} has the attempts {final.numbers}"
        attempts = Counter(one.attempt for one in case.arrivals if one.job_id == job_id)
        for attempt, times in attempts.items():
            if times > 1:
                yield "illegal", f"attempt {attempt} of {job_id} came {times} times"
            if attempt not in final.numbers:
                yield "illegal", f"attempt {attempt} of {job_id} came and is not recorded"


def committed(case: Case) -> list[str]:
    """Return the deliveries of a case that were enqueued in transactions that were committed."""
    return [job_id for job_id, final in case.finals.items() if final.committed]


def transacted(case: Case) -> Iterator[tuple[str, str]]:
    """Yield what is delivered and was not committed, or was committed and is gone, of a case with transactions."""
    if case.script.sql is None:
        return
    there = committed(case)
    for job_id in case.ids:
        if job_id not in there:
            yield "lost", f"the COMMIT of {job_id} was answered, and the row beside it is gone"
    for one in case.arrivals:
        if one.job_id not in there:
            yield "illegal", f"arrival {one.serial} is of {one.job_id}, which was rolled back"
    if case.script.keyed and len(there) > 1:
        yield "illegal", f"one key has the deliveries {there}"
