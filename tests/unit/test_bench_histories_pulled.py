"""The judge of `benchmarks.histories` finds what breaks the promises to pull workers, by their leases."""

from collections import Counter
from collections.abc import Callable

import pytest
from benchmarks.histories.case import Arrival, Call, Case, Final, Harm, Held, History
from benchmarks.histories.judge import PULL_WORKERS, Judge, Verdict
from benchmarks.histories.plan import COMPLETING, DoorName, Fault, Reply, Script, is_batched, script


def leased(serial: int, at: float, reply: Reply = Reply.OK, status: int | None = 204) -> Arrival:
    """A job that a worker has for 3 s from `at` on, and settles half a second later."""
    settles = reply in COMPLETING or reply in {Reply.ERROR, Reply.RELEASED}
    held = Held(at - 0.1, at + 2.9, at + 0.5 if settles else None, status if settles else None)
    whole = status == 204 and reply in COMPLETING
    return Arrival(serial, at, reply, "a", 1, at + 0.6, whole=whole, held=held)


def case(*arrivals: Arrival, serial: int = 1) -> Case:
    """A job for pull workers that has come to them like this, and has the result of one."""
    one = Case(DoorName.QUEUES, 0, Script((Reply.OK,), pulled=True))
    one.calls.append(Call("add", 100.0, 100.1, 200, "a"))
    one.arrivals += arrivals
    one.finals["a"] = Final("completed", serial, attempts=1)
    return one


def judged(one: Case, *harms: Harm) -> Verdict:
    return Judge(History(1, {DoorName.QUEUES: [one]}, list(harms)), lock_s=5.0).verdict()


def kinds(one: Case, *harms: Harm) -> list[str]:
    return [violation.kind for violation in judged(one, *harms).violations]


@pytest.mark.parametrize(
    "before",
    [
        leased(1, 100.2, Reply.ERROR),
        leased(1, 100.2, Reply.RELEASED),
        leased(1, 97.5, Reply.VANISHED),
        leased(1, 97.5, Reply.DONE_AND_VANISHED),
        leased(1, 97.5, Reply.LATE, 409),
    ],
    ids=lambda one: one.reply,
)
def test_a_job_comes_again_when_its_lease_is_over(before: Arrival) -> None:
    assert kinds(case(before, leased(2, 101.0), serial=2)) == []


def lease_of_another(one: Case) -> None:
    one.arrivals.insert(0, leased(2, 99.0, Reply.VANISHED))


def extended_in_vain(one: Case) -> None:
    lease_of_another(one)
    held = one.arrivals[0].held
    assert held is not None
    held.asked_from, held.until = 96.0, 102.0


def completed_by_two(one: Case) -> None:
    one.arrivals.append(leased(2, 104.0))


def comes_when_it_is_done(one: Case) -> None:
    one.arrivals.append(leased(2, 104.0, Reply.VANISHED))


def settled_with_a_lost_lease(one: Case) -> None:
    held = one.arrivals[0].held
    assert held is not None
    one.arrivals.append(leased(2, 104.0, Reply.VANISHED))
    held.asked_at, one.arrivals[0].ended = 105.0, 105.1


def settled_twice(one: Case) -> None:
    held = one.arrivals[0].held
    assert held is not None
    held.again = 204


def result_of_a_refused_settlement(one: Case) -> None:
    one.arrivals[0] = leased(1, 100.2, status=409)
    one.arrivals.append(leased(2, 104.0))


def never_settled(one: Case) -> None:
    one.arrivals[0] = leased(1, 100.2, status=409)


def pushed_too(one: Case) -> None:
    one.arrivals.append(Arrival(2, 100.3, Reply.OK, "a", 1, 100.4, whole=True))


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (lease_of_another, "doubled"),
        (extended_in_vain, "doubled"),
        (completed_by_two, "doubled"),
        (comes_when_it_is_done, "doubled"),
        (settled_with_a_lost_lease, "illegal"),
        (settled_twice, "illegal"),
        (result_of_a_refused_settlement, "illegal"),
        (never_settled, "lost"),
        (pushed_too, "illegal"),
    ],
)
def test_what_breaks_a_promise_to_pull_workers_is_found(broken: Callable[[Case], None], kind: str) -> None:
    one = case(leased(1, 100.2))
    assert kinds(one, Harm(Fault.KILL_TORIL, 0, 100.3, 101.0)) == []
    broken(one)
    assert kind in kinds(one, Harm(Fault.KILL_TORIL, 0, 100.3, 101.0))


def test_only_a_failover_may_lose_a_lease() -> None:
    one = case(leased(1, 100.2, Reply.VANISHED), leased(2, 101.0), serial=2)
    assert kinds(one, Harm(Fault.FREEZE_REDIS, 0, 97.0, 101.0)) == ["doubled"]
    assert kinds(one, Harm(Fault.KILL_MASTER, 0, 100.5, 102.0)) == []


def test_an_answer_that_came_late_says_nothing_of_which_lease_was_first() -> None:
    late = leased(1, 104.3, Reply.LATE, 409)
    assert late.held is not None
    late.held.asked_from, late.held.until = 100.0, 103.0
    assert kinds(case(late, leased(2, 104.2), serial=2)) == []


@pytest.mark.parametrize(
    ("reply", "unavoidable", "avoidable"),
    [
        (Reply.DONE_AND_VANISHED, {"pull worker vanished": 1}, {}),
        (Reply.LATE, {"pull worker was late": 1}, {}),
        (Reply.OK, {}, {"Redis stood still": 1}),
        (Reply.VANISHED, {}, {}),
    ],
)
def test_a_job_that_pull_workers_have_done_twice_is_counted_with_its_cause(
    reply: Reply, unavoidable: dict[str, int], avoidable: dict[str, int]
) -> None:
    one = case(leased(1, 100.2, reply, 409), leased(2, 105.0), serial=2)
    verdict = judged(one, Harm(Fault.FREEZE_REDIS, 0, 100.3, 104.0))
    assert verdict.passed
    found = verdict.doors[PULL_WORKERS]
    assert (found.unavoidable, found.avoidable) == (unavoidable, avoidable)


def test_a_part_of_the_jobs_is_for_pull_workers_that_do_all_they_can_do_wrong() -> None:
    scripts = [script(1, DoorName.QUEUES, number) for number in range(4000)]
    pulled = [one for one in scripts if one.pulled]
    assert 600 < len(pulled) < 1000
    replies = Counter(reply for one in pulled for reply in one.replies)
    wanted = {Reply.VANISHED, Reply.DONE_AND_VANISHED, Reply.RELEASED, Reply.EXTENDED, Reply.LATE, Reply.TWICE}
    assert wanted <= set(replies)
    assert not any(is_batched(one, number) for number, one in enumerate(scripts) if one.pulled)
    assert not any(one.pulled for one in (script(1, DoorName.PROXY, number) for number in range(1000)))
