"""Judges a history: what was lost, done twice, done too late, out of order, or against the rules.

Knows nothing of a running toril: it reads what `case` holds. `harms` says what a fault can have caused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.histories import ledger, pulled
from benchmarks.histories.case import UNKNOWN, UNSURE, Arrival, Call, Case, Final, Harm, History
from benchmarks.histories.harms import LEASING_S, Harms, excusing, silenced, silencing
from benchmarks.histories.plan import ANSWERED, FAILOVERS, HARMLESS, DoorName, Fault, Reply

_GOOD = {DoorName.QUEUES: "completed", DoorName.PROXY: "completed", DoorName.DELIVERY: "delivered"}
PULL_WORKERS = "queues, pull workers"
"""Where jobs that pull workers do are counted; all others are counted with their door."""
_BREAKING_OFF_S = 1.0
"""How long an attempt may go on after its delivery was cancelled."""
SETTLING_S = 2.0
"""How long after its answer, or after an outage of a store in that time, an attempt may still not be settled: a fault
until then can have it made again."""
_OF_LEDGER = frozenset(
    {
        Fault.KILL_POSTGRES,
        Fault.FREEZE_POSTGRES,
        Fault.CUT_POSTGRES,
        Fault.PART_POSTGRES,
        Fault.FULL_POSTGRES,
    }
)
"""Faults of the ledger alone: what it has held up is not begun when it is back, if its target was paused meanwhile."""


@dataclass
class Violation:
    """A promise that was not kept."""

    kind: str
    case: Case | None
    text: str


@dataclass
class DoorVerdict:
    """What came of the cases of a door.

    `touched` are the jobs that were accepted and not at their end yet while a fault lasted; faults of the ledger alone
    touch deliveries only. `causes` counts what had hit an attempt before its job was begun again. Of the jobs that the
    endpoint has done more than once, by what had hit them, `unavoidable` counts those whose toril was killed or cut off
    each time between the endpoint's answer and the record, and `avoidable` the rest.
    """

    cases: int = 0
    accepted: int = 0
    calls: int = 0
    unanswered: int = 0
    cancelled: int = 0
    replayed: int = 0
    arrivals: int = 0
    failed_attempts: int = 0
    touched: int = 0
    begun_again: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    unavoidable: Counter[str] = field(default_factory=Counter)
    avoidable: Counter[str] = field(default_factory=Counter)

    @property
    def done_again(self) -> int:
        """How many jobs the endpoint has done more than once."""
        return self.unavoidable.total() + self.avoidable.total()


@dataclass
class Verdict:
    """What is to be said of a history."""

    doors: dict[str, DoorVerdict] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    ordered: int = 0

    @property
    def passed(self) -> bool:
        """True if every promise was kept."""
        return not self.violations


class Judge:
    """Reads one history.

    Args:
        history: what was seen.
        lock_s: how long the locks of jobs lived.
    """

    def __init__(self, history: History, lock_s: float) -> None:
        self._history = history
        harmful = [harm for harm in history.harms if harm.fault not in HARMLESS]
        self._harms = Harms(harmful)
        self._harms_to_leases = Harms([harm for harm in harmful if harm.fault not in _OF_LEDGER])
        self._failovers = Harms([harm for harm in history.harms if harm.fault in FAILOVERS])
        self._excuses = Harms(list(excusing(history.harms, lock_s / 2)))
        self._silences = Harms(silencing(history.harms, lock_s / 2))
        self._pauses = list(self._lasting_pauses())

    def verdict(self) -> Verdict:
        """Return the verdict."""
        found = Verdict()
        found.violations += [Violation("left", None, text) for text in self._history.left]
        for door, cases in self._history.cases.items():
            found.doors[door] = DoorVerdict()
            line: list[_InLine] = []
            for case in cases:
                if case.calls:
                    counted = found.doors.setdefault(PULL_WORKERS if case.script.pulled else door, DoorVerdict())
                    self._count(case, counted)
                    found.violations += [Violation(kind, case, text) for kind, text in self._wrong(case, counted)]
                    line += _in_line(case)
            if door is DoorName.QUEUES:
                found.ordered = len(line)
                found.violations += _order(line)
        return found

    def _count(self, case: Case, counted: DoorVerdict) -> None:
        counted.cases += 1
        counted.accepted += bool(case.ids)
        counted.calls += len(case.calls)
        counted.unanswered += sum(call.status == UNKNOWN for call in case.calls)
        counted.cancelled += any(call.accepted for call in case.of_kind("cancel"))
        counted.replayed += any(call.accepted for kind in ("replay", "retry") for call in case.of_kind(kind))
        counted.arrivals += len(case.arrivals)
        counted.failed_attempts += sum(not one.done for one in case.arrivals)
        harms = self._harms if case.door is DoorName.DELIVERY else self._harms_to_leases
        counted.touched += bool(case.ids) and bool(harms.during(case.began, case.ended))

    def _wrong(self, case: Case, counted: DoorVerdict) -> Iterator[tuple[str, str]]:
        for job_id in dict.fromkeys([*case.ids, *ledger.committed(case)]):
            yield from self._ended(case, job_id, case.finals.get(job_id, Final(None)))
        yield from self._cancelled(case)
        if case.script.pulled:
            self._count_pulled(case, counted)
            yield from pulled.wrong(case, self._failovers)
        else:
            yield from self._doubled(case, counted)
            yield from self._retried(case)
        yield from self._identified(case)
        yield from self._results(case)
        yield from self._paused(case)
        if case.door is DoorName.DELIVERY:
            yield from ledger.recorded(case)
            yield from ledger.transacted(case)
            yield from self._lost_attempts(case)

    def _ended(self, case: Case, job_id: str, final: Final) -> Iterator[tuple[str, str]]:
        """What was accepted has reached the endpoint, and ended well, unless it may have been cancelled."""
        good = _GOOD[case.door]
        maybe_cancelled = any(call.accepted or call.status in UNSURE for call in case.of_kind("cancel"))
        if not (done := [one for one in case.arrivals if _may_end(case.door, one)]) and not maybe_cancelled:
            yield "lost", f"{job_id} was acknowledged and never done"
        if final.status == good and not done:
            yield "illegal", f"{job_id} is {final.status}, and the endpoint has never done it"
        if maybe_cancelled and final.status in {None, "cancelled"}:
            return
        if final.status != good and self._back_to_failed(case):
            return
        if final.status != good:
            yield "lost", f"{job_id} was acknowledged and is {final.status}"
            return
        if case.door is not DoorName.DELIVERY or final.serial is not None:
            result = next((one for one in case.arrivals if one.serial == final.serial), None)
            if result is None or not _may_end(case.door, result):
                yield "illegal", f"{job_id} has the result {final.shown}, which the endpoint has not given"

    def _back_to_failed(self, case: Case) -> bool:
        """Return True if a failover may have lost a retry that was not confirmed, and the result behind it."""
        retries = [call for kind in ("retry", "replay") for call in case.of_kind(kind)]
        unsure = bool(retries) and retries[-1].status in UNSURE
        return unsure and bool(self._failovers.during(retries[-1].began, float("inf")))

    def _cancelled(self, case: Case) -> Iterator[tuple[str, str]]:
        """What was cancelled does not run."""
        calls = [call for call in case.of_kind("cancel") if call.accepted]
        if not calls:
            return
        at = calls[0].ended
        # An add without an answer may be carried out behind the cancel.
        if any(call.status in UNSURE and call.began < at for call in case.of_kind("add")):
            return
        on_its_way_until = self._done_by(at, LEASING_S)
        for one in case.arrivals:
            if one.at > on_its_way_until and not self._excuses.during(at - LEASING_S, one.at):
                yield "stale", f"arrival {one.serial} came {one.at - at:.3f} s after the cancel was answered"
            elif case.door is DoorName.DELIVERY and self._goes_on(one, calls[0]):
                yield "stale", f"arrival {one.serial} went on for {(one.ended or at) - at:.3f} s after the cancel"
        for job_id, final in case.finals.items():
            if final.status not in {None, "cancelled"}:
                yield "stale", f"{job_id} was cancelled, and is {final.status}"

    def _goes_on(self, one: Arrival, cancel: Call) -> bool:
        """Return True if an attempt was under way when its delivery was cancelled, and was not broken off soon.

        Where Redis was away meanwhile, its toril may not have been told.
        """
        until = self._done_by(cancel.ended, _BREAKING_OFF_S)
        under_way = one.at < cancel.ended and one.ended is not None and until < one.ended
        away = self._excuses.during(one.at - LEASING_S, until) or self._harms_to_leases.during(cancel.began, until)
        return under_way and not away

    def _lost_attempts(self, case: Case) -> Iterator[tuple[str, str]]:
        """An attempt is recorded as lost only where a fault can have cut off its worker."""
        for job_id, final in case.finals.items():
            for number in final.lost:
                made = [one for one in case.arrivals if one.job_id == job_id and one.attempt == number]
                hits = [harm for one in made for harm in self._hits(one, one.at)]
                if not (hits if made else self._excuses.during(case.began - LEASING_S, case.ended)):
                    yield "illegal", f"attempt {number} of {job_id} is recorded as lost, and no fault had hit it"

    def _retried(self, case: Case) -> Iterator[tuple[str, str]]:
        """A job with one attempt is made once, and once more for each time that it was retried."""
        if not (case.door is DoorName.QUEUES and case.script.replayed):
            return
        retries = [call.began for call in case.of_kind("retry")]
        for number, one in enumerate(case.arrivals):
            retried = sum(began < one.at for began in retries)
            earlier = case.arrivals[:number]
            if number > retried and not any(self._hits(other, one.at) for other in earlier):
                yield "illegal", f"arrival {one.serial} is one attempt more than the job has, and it was not retried"

    def _doubled(self, case: Case, counted: DoorVerdict) -> Iterator[tuple[str, str]]:
        """A job is done once, and its attempts come one after the other, unless a fault hit an attempt."""
        by_job: dict[str | None, list[Arrival]] = {}
        for one in sorted(case.arrivals, key=lambda arrival: arrival.at):
            by_job.setdefault(None if case.door is DoorName.PROXY else one.job_id, []).append(one)
        allowed = _most_jobs(case) if case.door is DoorName.PROXY else 1
        for arrivals in by_job.values():
            done: list[Arrival] = []
            hit: set[str] = set()
            avoidable, done_again = False, False
            for number, one in enumerate(arrivals):
                earlier, before = arrivals[:number], list(done)
                open_ = [other for other in earlier if other.ended is None or other.ended > one.at]
                done += [one] if _ends(case.door, one) else []
                if len(before) < allowed and len(open_) < allowed:
                    continue
                counted.begun_again += 1
                harms = [harm for other in earlier for harm in self._hits(other, one.at)]
                names = {harm.fault.value for harm in harms}
                if harms:
                    counted.causes[" and ".join(sorted(names))] += 1
                else:
                    yield "doubled", f"arrival {one.serial} came although no fault had hit an earlier one"
                if len(before) >= allowed and done[-1] is one:
                    done_again = True
                    hit |= names
                    avoidable |= not silenced(before[-1], self._settled_by(before[-1], one.at), self._silences)
            if done_again:
                counters = counted.avoidable if avoidable else counted.unavoidable
                counters[" and ".join(sorted(hit)) or "nothing"] += 1

    def _count_pulled(self, case: Case, counted: DoorVerdict) -> None:
        """Count what pull workers have done more than once: unavoidable where each was late or gone by itself."""
        for done in pulled.done(case).values():
            if len(done) > 1:
                counted.begun_again += len(done) - 1
                causes = [pulled.cause(one, self._harms_to_leases) for one in done[:-1]]
                counters = counted.unavoidable if all(own for own, _ in causes) else counted.avoidable
                counters[" and ".join(sorted({text for _, text in causes if text})) or "nothing"] += 1

    def _settled_by(self, attempt: Arrival, until: float) -> float:
        return self._done_by(attempt.ended or until, SETTLING_S)

    def _hits(self, attempt: Arrival, until: float) -> list[Harm]:
        """Return the faults that can have an attempt made again at a time."""
        return self._excuses.during(attempt.at - LEASING_S, self._settled_by(attempt, until))

    def _done_by(self, at: float, within_s: float, harms: Harms | None = None) -> float:
        """Return when a step that was due then and takes so long is done at the latest: not while a store is away.

        `harms`: those that hold it up; all where it is not given.
        """
        done = at + within_s
        harms = harms or self._harms
        while later := [harm.ended for harm in harms.during(at, done) if harm.ended + within_s > done]:
            done = max(later) + within_s
        return done

    def _identified(self, case: Case) -> Iterator[tuple[str, str]]:
        """A key has one job, unless it was free again."""
        ids = {call.job_id for call in case.of_kind("add") if call.accepted}
        if case.script.keyed and len(ids) > 1:
            yield "illegal", f"one key was answered with {sorted(map(str, ids))}"

    def _results(self, case: Case) -> Iterator[tuple[str, str]]:
        """A result that a caller has seen stays, unless a failover has lost it: results of pushes are not confirmed."""
        for job_id, serial, at in case.results:
            final = case.finals.get(job_id)
            lost = self._failovers.during(at, float("inf"))
            if final is not None and final.serial not in {None, serial} and not lost:
                yield "stale", f"the result of {job_id} was {serial} and is {final.serial}"
        serials = [final.serial for final in case.finals.values() if final.serial is not None]
        if len(set(serials)) < len(serials):
            yield "illegal", f"several jobs have one answer: {serials}"

    def _paused(self, case: Case) -> Iterator[tuple[str, str]]:
        """While a queue or target is paused, nothing begins; the pause of a target is not confirmed by replicas."""
        if case.script.in_line or case.script.pulled:
            return
        for door, began, on_its_way_until, ended in self._pauses:
            if door is not case.door:
                continue
            for one in case.arrivals:
                if on_its_way_until < one.at < ended and not self._excuses.during(began - LEASING_S, one.at):
                    yield "illegal", f"arrival {one.serial} came {one.at - began:.3f} s after a pause was answered"

    def _lasting_pauses(self) -> Iterator[tuple[DoorName, float, float, float]]:
        """Yield the pauses in which nothing may begin: the door, the begin, until when what was leased may, the end."""
        for door, began, ended in self._history.pauses:
            if ended - began < 2 * LEASING_S:
                continue
            if door is DoorName.DELIVERY and self._failovers.during(began - LEASING_S, ended):
                continue
            # An answer of Redis that leases a job, or says that the target is not paused, may have been on its way.
            yield door, began, self._done_by(began, LEASING_S, self._harms_to_leases), ended


@dataclass(slots=True)
class _InLine:
    """When a job of the queue that takes one at a time was added, and when it came."""

    number: int
    began: float
    answered: float
    came: float


def _in_line(case: Case) -> Iterator[_InLine]:
    """Yield when a job in line was added and came.

    A job that was attempted before its first arrival (its connection was refused) is left out.
    """
    if not (case.script.in_line and case.ids and case.arrivals):
        return
    if all(final.attempts in {None, len(case.arrivals)} for final in case.finals.values()):
        answered = min(call.ended for call in case.of_kind("add") if call.accepted)
        yield _InLine(case.number, case.began, answered, min(one.at for one in case.arrivals))


def _order(line: list[_InLine]) -> Iterator[Violation]:
    """Jobs of the queue that takes one at a time come in the order in which they were added.

    Of two adds that overlap either may be first.
    """
    latest, before = float("-inf"), None
    for one in sorted(line, key=lambda one: one.came):
        if one.answered < latest and before is not None:
            text = (
                f"{one.number} came at {one.came:.3f} and was accepted at {one.answered:.3f}, behind {before.number}, "
                f"which was added at {before.began:.3f}"
            )
            yield Violation("order", None, text)
        if one.began > latest:
            latest, before = one.began, one


def _most_jobs(case: Case) -> int:
    """Return how many jobs the requests of a case may belong to, where they do not name them."""
    known = max(1, len(case.ids))
    unkeyed = [] if case.script.keyed else case.of_kind("add")
    return known + sum(call.status in UNSURE for call in (*unkeyed, *case.of_kind("replay")))


def _ends(door: DoorName, one: Arrival) -> bool:
    """Return True if this answer, which came in time, ends the job: a 2xx, and for the async proxy any."""
    return one.reply is not Reply.LATE and (one.whole if door is DoorName.PROXY else one.done)


def _may_end(door: DoorName, one: Arrival) -> bool:
    """Return True if this answer may end the job: a late one may be read in time by a toril that stood still."""
    if one.held is not None:
        return pulled.may_complete(one)
    answers = door is DoorName.PROXY or one.reply in ANSWERED or one.reply is Reply.LATE
    return _ends(door, one) or (answers and (one.whole or one.ended is None))
