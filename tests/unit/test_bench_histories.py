"""The judge of `benchmarks.histories` finds what breaks a promise, and the seed decides about the plan."""

import shutil
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.compiling import built
from benchmarks.histories.case import UNKNOWN, Arrival, Call, Case, Final, Harm, History
from benchmarks.histories.endpoint import source_address
from benchmarks.histories.judge import Judge, Verdict
from benchmarks.histories.plan import (
    FAILOVERS,
    DoorName,
    Fault,
    Reply,
    Script,
    Sql,
    faults_for,
    is_batched,
    planned_faults,
    script,
)  # fmt: skip
from benchmarks.histories.records import Records
from benchmarks.histories.report import UNAVOIDABLE, report
from benchmarks.histories.run import Progress
from msgspec.structs import replace

OK = Script((Reply.OK,))
LEGAL = [(1, None, "queued"), (2, "queued", "dispatching"), (3, "dispatching", "delivered")]


def arrival(serial: int, at: float, attempt: int = 1, reply: Reply = Reply.OK) -> Arrival:
    return Arrival(serial, at, reply, "a", attempt, at + 0.1, whole=True, member=0)


def case(door: DoorName = DoorName.QUEUES, number: int = 0) -> Case:
    """A case that went as it should, in the second after 100."""
    good = Case(door, number, OK)
    good.calls.append(Call("add", 100.0, 100.1, 200, "a"))
    good.arrivals.append(arrival(1, 100.2))
    status = "delivered" if door is DoorName.DELIVERY else "completed"
    good.finals["a"] = Final(status, 1, 200, attempts=1, numbers=[1], transitions=list(LEGAL))
    return good


def recorded(*cases: Case) -> dict[DoorName, Records]:
    """The records of a run in which these cases were made."""
    records = {door: Records(1, door) for door in DoorName}
    for one in cases:
        of_door = records[one.door]
        made = of_door.begin()
        made.script, made.calls, made.results = one.script, one.calls, one.results
        for arrival in one.arrivals:
            of_door.arrived(made.number, arrival)
            if arrival.ended is not None:
                of_door.answered(arrival)
        of_door.end(made)
        of_door.found(made.number, one.finals)
    return records


def judged(*cases: Case, harms: tuple[Harm, ...] = ()) -> Verdict:
    return Judge(History(1, recorded(*cases), list(harms)), lock_s=5.0).verdict()


def kinds(*cases: Case, harms: tuple[Harm, ...] = ()) -> list[str]:
    return [violation.kind for violation in judged(*cases, harms=harms).violations]


@pytest.mark.parametrize("door", list(DoorName))
def test_what_went_well_is_in_order(door: DoorName) -> None:
    assert kinds(case(door)) == []


def lost(one: Case) -> None:
    one.arrivals.clear()
    one.finals["a"] = Final("waiting")


def forgotten(one: Case) -> None:
    one.finals["a"] = Final(None)


def failed(one: Case) -> None:
    one.finals["a"] = Final("failed", 1, 200)


def done_again(one: Case) -> None:
    one.arrivals.append(arrival(2, 101.0, 2))
    one.finals["a"].numbers = [1, 2]


def side_by_side(one: Case) -> None:
    one.arrivals.insert(0, Arrival(2, 100.15, Reply.CUT, "a", 2, 100.25))
    one.finals["a"].numbers = [1, 2]


def run_after_its_cancel(one: Case) -> None:
    one.calls.append(Call("cancel", 100.1, 100.15, 204))
    one.arrivals[0].at, one.arrivals[0].ended = 101.5, 101.6


def kept_after_its_cancel(one: Case) -> None:
    one.calls.append(Call("cancel", 100.1, 100.4, 204))


def foreign_result(one: Case) -> None:
    one.finals["a"].serial = 7


def changed_result(one: Case) -> None:
    one.results.append(("a", 7, 100.3))


def two_ids(one: Case) -> None:
    one.calls.append(Call("add", 100.2, 100.3, 200, "b"))
    one.finals["b"] = one.finals["a"]


def tried_once_more(one: Case) -> None:
    one.script = Script((Reply.ERROR, Reply.OK), replayed=True)
    one.arrivals.insert(0, arrival(2, 100.0, reply=Reply.ERROR))


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (tried_once_more, "illegal"),
        (lost, "lost"),
        (forgotten, "lost"),
        (failed, "lost"),
        (done_again, "doubled"),
        (side_by_side, "doubled"),
        (run_after_its_cancel, "stale"),
        (kept_after_its_cancel, "stale"),
        (foreign_result, "illegal"),
        (changed_result, "stale"),
        (two_ids, "illegal"),
    ],
)
def test_what_breaks_a_promise_is_found(broken: Callable[[Case], None], kind: str) -> None:
    one = case()
    broken(one)
    assert kind in kinds(one, case(number=1))


@pytest.mark.parametrize("door", list(DoorName))
def test_a_job_may_be_done_again_where_a_fault_has_hit_its_attempt(door: DoorName) -> None:
    one = case(door)
    done_again(one)
    killed = Harm(Fault.KILL_TORIL, 0, 100.25, 101.0)
    verdict = judged(one, harms=(killed,))
    assert verdict.passed
    assert (verdict.doors[door].done_again, verdict.doors[door].touched) == (1, 1)
    assert verdict.doors[door].causes == {"toril killed": 1}


@pytest.mark.parametrize(
    "harm",
    [
        Harm(Fault.RESTART_TORIL, 0, 100.2, 101.0),
        Harm(Fault.KILL_TORIL, 0, 90.0, 92.0),
        Harm(Fault.KILL_REDIS, 0, 100.2, 101.0),
        Harm(Fault.FREEZE_TORIL, 0, 100.2, 101.0),
        Harm(Fault.FREEZE_POSTGRES, 0, 100.2, 109.0),
    ],
    ids=["a restart in good order", "another time", "Redis back in time", "a short stop", "the ledger away"],
)
def test_what_cannot_have_caused_it_excuses_nothing(harm: Harm) -> None:
    one = case()
    done_again(one)
    assert kinds(one, harms=(harm,)) == ["doubled"]


@pytest.mark.parametrize(
    ("door", "fault", "began", "ended", "touched"),
    [
        (DoorName.QUEUES, Fault.KILL_REDIS, 100.15, 100.16, 1),
        (DoorName.QUEUES, Fault.KILL_REDIS, 90.0, 99.9, 0),
        (DoorName.QUEUES, Fault.KILL_REDIS, 100.4, 101.0, 0),
        (DoorName.QUEUES, Fault.FREEZE_POSTGRES, 100.15, 100.16, 0),
        (DoorName.PROXY, Fault.FULL_POSTGRES, 100.15, 100.16, 0),
        (DoorName.DELIVERY, Fault.FREEZE_POSTGRES, 100.15, 100.16, 1),
        (DoorName.QUEUES, Fault.RELOAD, 100.15, 100.16, 0),
    ],
)
def test_a_job_is_touched_by_faults_that_last_while_it_is_alive_and_that_its_door_can_feel(
    door: DoorName, fault: Fault, began: float, ended: float, touched: int
) -> None:
    assert judged(case(door), harms=(Harm(fault, 0, began, ended),)).doors[door].touched == touched


def test_the_report_says_of_each_door_how_many_jobs_were_done_again_and_why() -> None:
    one, other = case(), case(DoorName.DELIVERY)
    done_again(one)
    harm = Harm(Fault.KILL_TORIL, 0, 100.25, 101.0)
    history = History(1, recorded(one, other), [harm])
    lines = list(report(history, Judge(history, 5.0).verdict(), 1.0))
    (queues,) = (line for line in lines if line.startswith("| queues |"))
    assert queues.endswith("| 1 | 1 (100.000% of all) |")
    assert lines[-3:] == [
        f"| **{UNAVOIDABLE}** | 1 (100.000% of those alive) | 0 (0.000% of those alive) | 0 (0.000% of those alive) |",
        "| toril killed | 1 | 0 | 0 |",
        "| **the rest** | 0 (0.000% of those alive) | 0 (0.000% of those alive) | 0 (0.000% of those alive) |",
    ]


@pytest.mark.parametrize(
    ("harm", "unavoidable"),
    [
        (Harm(Fault.KILL_TORIL, 0, 100.4, 103.0), True),
        (Harm(Fault.KILL_TORIL, 0, 100.1, 103.0), True),
        (Harm(Fault.KILL_TORIL, 1, 100.4, 103.0), False),
        (Harm(Fault.KILL_PROCESS, 0, 100.4, 103.0), True),
        (Harm(Fault.FREEZE_PROCESS, 0, 99.0, 104.0), True),
        (Harm(Fault.FREEZE_TORIL, 0, 99.0, 104.0), True),
        (Harm(Fault.FREEZE_TORIL, 1, 99.0, 104.0), False),
        (Harm(Fault.PART_REDIS, 0, 100.4, 104.0), True),
        (Harm(Fault.FREEZE_REDIS, 0, 100.4, 104.0), False),
        (Harm(Fault.CUT_REDIS, 0, 97.0, 100.25), False),
    ],
    ids=lambda value: f"{value.fault} {value.member}" if isinstance(value, Harm) else str(value),
)
def test_a_job_is_done_again_for_sure_where_its_own_toril_is_gone_before_the_record(
    harm: Harm, unavoidable: bool
) -> None:
    one = case()
    done_again(one)
    verdict = judged(one, harms=(harm,))
    found = verdict.doors[DoorName.QUEUES]
    assert verdict.passed
    assert (found.unavoidable.total(), found.avoidable.total()) == ((1, 0) if unavoidable else (0, 1))


def test_a_job_that_one_of_two_faults_has_made_again_without_need_counts_with_the_rest() -> None:
    one = case()
    done_again(one)
    one.arrivals.append(arrival(3, 108.0, 3))
    killed, away = Harm(Fault.KILL_TORIL, 0, 100.4, 100.9), Harm(Fault.FREEZE_REDIS, 0, 101.2, 106.0)
    found = judged(one, harms=(killed, away)).doors[DoorName.QUEUES]
    assert (found.unavoidable.total(), found.avoidable) == (0, {"Redis stood still and toril killed": 1})


def test_a_program_connects_from_the_address_that_says_which_toril_it_is() -> None:
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    env = {"LD_PRELOAD": str(built("source_address", library=True)), "SOURCE_ADDRESS": source_address(1)}
    program = (
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    with socket.create_connection(server.getsockname()):\n"
        "        connection, peer = server.accept()\n"
        "        connection.close()\n"
        "print(peer[0])"
    )
    told = subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True, text=True)
    assert told.stdout.strip() == source_address(1) == "127.0.0.3"


def test_a_job_that_was_done_three_times_is_one_that_was_done_more_than_once() -> None:
    one = case()
    done_again(one)
    one.arrivals.append(arrival(3, 108.0, 3))
    found = judged(one, harms=(Harm(Fault.KILL_TORIL, 0, 100.25, 101.0),)).doors[DoorName.QUEUES]
    assert (found.begun_again, found.done_again) == (2, 1)


def test_a_job_that_an_outage_has_kept_from_being_settled_may_be_done_again() -> None:
    one = case(DoorName.DELIVERY)
    one.arrivals.append(arrival(2, 115.0, 2))
    one.finals["a"].numbers = [1, 2]
    away, frozen = Harm(Fault.FULL_POSTGRES, 0, 100.25, 105.0), Harm(Fault.FREEZE_TORIL, 0, 106.0, 112.0)
    assert kinds(one, harms=(frozen,)) == ["doubled"]
    assert kinds(one, harms=(away, frozen)) == []


def test_an_answer_after_the_timeout_may_be_taken_or_not() -> None:
    one = case(DoorName.PROXY)
    one.arrivals[0] = replace(one.arrivals[0], reply=Reply.LATE)
    assert kinds(one) == []
    done_again(one)
    one.finals["a"].serial = 2
    assert kinds(one) == []


def test_outages_of_redis_one_after_the_other_last_as_long_as_all_of_them() -> None:
    one = case()
    done_again(one)
    killed, cut = Harm(Fault.KILL_REDIS, 0, 99.0, 100.1), Harm(Fault.CUT_REDIS, 0, 101.0, 102.0)
    assert kinds(one, harms=(killed,)) == ["doubled"]
    assert kinds(one, harms=(killed, cut)) == []


def test_a_result_may_change_only_where_a_failover_can_have_lost_it() -> None:
    one = case()
    changed_result(one)
    assert kinds(one, harms=(Harm(Fault.KILL_MASTER, 0, 101.0, 103.0),)) == []
    assert kinds(one, harms=(Harm(Fault.KILL_MASTER, 0, 90.0, 93.0),)) == ["stale"]
    assert kinds(one, harms=(Harm(Fault.KILL_TORIL, 0, 101.0, 103.0),)) == ["stale"]


def test_a_retry_that_was_not_confirmed_may_be_lost_with_a_failover() -> None:
    one = case()
    failed(one)
    one.calls.append(Call("retry", 100.4, 100.5, 503))
    assert kinds(one, harms=(Harm(Fault.FAIL_OVER, 0, 100.3, 102.0),)) == []
    assert kinds(one, harms=(Harm(Fault.KILL_REDIS, 0, 100.3, 102.0),)) == ["lost"]
    one.calls[-1].status = 204
    assert kinds(one, harms=(Harm(Fault.FAIL_OVER, 0, 100.3, 102.0),)) == ["lost"]


def test_an_add_without_an_answer_claims_nothing() -> None:
    one = case()
    one.calls = [Call("add", 100.0, 100.1, UNKNOWN)]
    one.arrivals.clear()
    one.finals.clear()
    assert kinds(one) == []


@pytest.mark.parametrize(
    ("numbers", "transitions"),
    [
        ([1, 3], LEGAL),
        ([1], [*LEGAL, (4, "delivered", "dispatching")]),
        ([1], [LEGAL[0], (3, "queued", "dispatching"), (4, "dispatching", "delivered")]),
        ([1], LEGAL[:2]),
        ([], LEGAL),
    ],
    ids=[
        "a gap in the attempts",
        "a step after the end",
        "a gap in the steps",
        "no end",
        "an attempt without a record",
    ],
)
def test_a_ledger_that_tells_something_else_is_found(
    numbers: list[int], transitions: list[tuple[int, str | None, str]]
) -> None:
    one = case(DoorName.DELIVERY)
    one.finals["a"] = replace(one.finals["a"], numbers=numbers, transitions=transitions)
    assert set(kinds(one)) == {"illegal"}


def test_an_attempt_that_is_recorded_as_lost_needs_a_fault_that_can_have_cut_off_its_worker() -> None:
    one = case(DoorName.DELIVERY)
    one.finals["a"].lost = [1]
    assert kinds(one) == ["illegal"]
    assert kinds(one, harms=(Harm(Fault.RESTART_TORIL, 0, 100.25, 101.0),)) == ["illegal"]
    assert kinds(one, harms=(Harm(Fault.KILL_TORIL, 0, 100.25, 101.0),)) == []


def test_an_attempt_that_goes_on_after_its_delivery_was_cancelled_is_found() -> None:
    one = case(DoorName.DELIVERY)
    one.calls.append(Call("cancel", 100.3, 100.4, 204))
    one.arrivals[0] = Arrival(1, 100.2, Reply.LATE, "a", 1, 101.0)
    one.finals["a"] = Final(
        "cancelled", attempts=1, numbers=[1], transitions=[*LEGAL[:2], (3, "dispatching", "cancelled")]
    )
    assert kinds(one) == []
    one.arrivals[0].ended = 103.0
    assert kinds(one) == ["stale"]
    assert kinds(one, harms=(Harm(Fault.FREEZE_TORIL, 0, 100.3, 102.0),)) == []
    assert kinds(one, harms=(Harm(Fault.FLUSH_REDIS, 0, 100.25, 100.25),)) == []
    assert kinds(one, harms=(Harm(Fault.CUT_REDIS, 0, 100.2, 100.35),)) == []


def in_transaction(committed: bool, status: int = 200) -> Case:
    one = case(DoorName.DELIVERY)
    one.script = Script((Reply.OK,), sql=Sql.COMMITTED)
    one.calls = [Call("add", 100.0, 100.1, status, "a" if status else None)]
    one.finals["a"].committed = committed
    return one


def test_what_a_program_has_committed_is_delivered_also_if_it_got_no_answer() -> None:
    assert kinds(in_transaction(True)) == []
    unanswered = in_transaction(True, UNKNOWN)
    assert kinds(unanswered) == []
    unanswered.arrivals.clear()
    unanswered.finals["a"] = Final("queued", committed=True, transitions=LEGAL[:1])
    assert kinds(unanswered) == ["lost", "lost"]


def test_what_a_program_has_rolled_back_does_not_come() -> None:
    one = in_transaction(True)
    one.calls.insert(0, Call("rolled back", 99.0, 99.1, 200, "b"))
    assert kinds(one) == []
    one.arrivals.append(replace(arrival(2, 101.0), job_id="b"))
    assert "illegal" in kinds(one)


def test_a_commit_that_was_answered_is_there() -> None:
    assert "lost" in kinds(in_transaction(False))


def test_a_key_that_is_committed_twice_is_one_delivery() -> None:
    one = in_transaction(True)
    one.finals["b"] = replace(one.finals["a"], serial=None)
    assert "illegal" in kinds(one)


def test_a_part_of_the_deliveries_is_enqueued_in_transactions_of_all_kinds() -> None:
    scripts = [script(1, DoorName.DELIVERY, number) for number in range(3000)]
    assert 250 < sum(one.sql is not None for one in scripts) < 600
    assert {one.sql for one in scripts} == {None, *Sql}
    assert not any(is_batched(one, number) for number, one in enumerate(scripts) if one.sql)


def test_a_job_with_one_attempt_that_was_retried_is_in_order() -> None:
    one = case()
    tried_once_more(one)
    one.calls.append(Call("retry", 100.15, 100.18, 204))
    assert kinds(one) == []


@pytest.mark.parametrize("attempts", [0, 2])
def test_a_list_that_tells_of_other_attempts_than_came_is_found(attempts: int) -> None:
    one = case(DoorName.DELIVERY)
    one.finals["a"] = Final("delivered", attempts=1, listed=True)
    assert kinds(one) == []
    one.finals["a"].attempts = attempts
    assert kinds(one) == ["illegal"]


def test_a_door_waits_for_the_others_until_all_have_accepted_enough() -> None:
    progress = Progress(100, Counter(dict.fromkeys(DoorName, 99)))
    progress.accepted[DoorName.PROXY] = 150
    assert [door for door in DoorName if progress.is_ahead(door)] == [DoorName.PROXY]
    progress.accepted.update(dict.fromkeys(DoorName, 1))
    assert not any(progress.is_ahead(door) for door in DoorName)


def test_a_toril_that_was_silent_though_nothing_was_done_to_it_is_reported() -> None:
    frozen, moved = Harm(Fault.FREEZE_TORIL, 0, 10.0, 15.0), Harm(Fault.MOVE_CLOCK, 1, 10.0, 15.0)
    history = History(1, {}, [frozen, moved], silences=[(0, 10.0, 15.0), (1, 11.0, 14.5), (1, 20.0, 22.0)])
    told = [line for line in report(history, Verdict(), 0.0) if line.startswith("- toril")]
    assert told == ["- toril 1 for 3.5 s from 11.000 on (clock of one toril moved, toril stood still)",
                    "- toril 1 for 2.0 s from 20.000 on (no fault)"]  # fmt: skip


def test_a_run_whose_time_is_over_is_complete_with_what_each_door_has_accepted() -> None:
    progress = Progress(100, Counter({DoorName.QUEUES: 40, DoorName.PROXY: 50}))
    assert progress.share == 0.4
    progress.stop()
    assert progress.complete
    assert progress.stopped


def test_an_attempt_of_a_delivery_that_comes_twice_is_found_whatever_happened_meanwhile() -> None:
    one = case(DoorName.DELIVERY)
    one.arrivals.append(arrival(2, 101.0))
    assert "illegal" in kinds(one, harms=(Harm(Fault.KILL_TORIL, 0, 100.2, 101.0),))


def in_line(number: int, added: float, came: float) -> Case:
    one = case(number=number)
    one.script = Script((Reply.OK,), in_line=True)
    one.calls = [Call("add", added, added + 0.1, 200, "a")]
    one.arrivals = [arrival(1, came)]
    return one


def test_a_job_that_overtakes_another_in_the_line_is_found() -> None:
    assert kinds(in_line(0, 100.0, 101.0), in_line(1, 100.2, 102.0)) == []
    assert kinds(in_line(0, 100.0, 102.0), in_line(1, 100.05, 101.0)) == []  # they were added at the same time
    assert kinds(in_line(0, 100.0, 102.0), in_line(1, 100.2, 101.0)) == ["order"]


def test_what_begins_while_its_queue_is_paused_is_found() -> None:
    history = History(1, {DoorName.QUEUES: [case()]}, pauses=[(DoorName.QUEUES, 99.0, 101.5)])
    assert [violation.kind for violation in Judge(history, 5.0).verdict().violations] == ["illegal"]


@pytest.mark.parametrize("door", [DoorName.QUEUES, DoorName.DELIVERY])
def test_a_request_that_was_leased_before_a_pause_may_wait_for_redis_and_not_for_the_ledger(door: DoorName) -> None:
    history = History(1, {door: [case(door)]}, pauses=[(door, 98.0, 101.5)])
    history.harms.append(Harm(Fault.FREEZE_REDIS, 0, 98.5, 99.9))
    assert "illegal" not in {violation.kind for violation in Judge(history, 5.0).verdict().violations}
    history.harms[0].fault = Fault.FREEZE_POSTGRES
    assert "illegal" in {violation.kind for violation in Judge(history, 5.0).verdict().violations}
    history.harms[0] = Harm(Fault.FREEZE_REDIS, 0, 98.5, 98.6)
    assert "illegal" in {violation.kind for violation in Judge(history, 5.0).verdict().violations}


def test_a_case_is_the_same_after_it_was_packed() -> None:
    one = case(DoorName.DELIVERY)
    one.calls.append(Call("add", 101.0, float("inf"), UNKNOWN))
    one.arrivals.append(Arrival(2, 102.0, Reply.LATE, None, None))
    one.results.append(("a", 1, 103.0))
    one.finals["b"] = Final(None, shown="gone")
    assert list(recorded(one)[DoorName.DELIVERY]) == [one]


def test_cases_of_all_rows_are_read_in_order() -> None:
    records = Records(1, DoorName.PROXY)
    begun = [records.begin() for _ in range(5000)]
    for made in reversed(begun):
        records.end(made)
    assert [one.number for one in records] == list(range(5000))
    assert [one.number for one in records.called()] == list(range(5000))


def test_the_endpoint_answers_as_the_script_says_also_after_its_case_was_packed() -> None:
    records = Records(1, DoorName.DELIVERY)
    made = next(one for one in iter(records.begin, None) if len(one.script.replies) == 3)
    expected = [*made.script.replies, made.script.replies[-1]]
    first = records.next_reply(made.number)
    records.end(made)
    assert [first, *(records.next_reply(made.number) for _ in range(3))] == expected


def test_cases_of_which_callers_want_more_are_added_alone() -> None:
    batched = [one for number in range(400) if is_batched(one := script(1, DoorName.DELIVERY, number), number)]
    assert 150 < len(batched) < 300
    assert all(one.keyed and not (one.again or one.cancelled or one.replayed or one.watched) for one in batched)


def test_a_moved_clock_moves_while_the_program_runs_and_leaves_even_clocks_alone(tmp_path: Path) -> None:
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    clock = tmp_path / "clock"
    clock.write_bytes(struct.pack("=q", 3600))
    env = {"LD_PRELOAD": str(built("moved_clock", library=True)), "MOVED_CLOCK": str(clock)}
    program = (
        "import struct, sys, time\n"
        "before = time.time(), time.monotonic()\n"
        "with open(sys.argv[1], 'r+b') as file: file.write(struct.pack('=q', -3600))\n"
        "print(*before, time.time(), time.monotonic())"
    )
    told = subprocess.run([sys.executable, "-c", program, clock], env=env, check=True, capture_output=True, text=True)
    ahead, even, behind, even_later = map(float, told.stdout.split())
    assert ahead - time.time() == pytest.approx(3600, abs=60)
    assert behind - time.time() == pytest.approx(-3600, abs=60)
    assert even <= even_later < even + 60


def test_a_seed_decides_about_cases_and_faults() -> None:
    everything = faults_for(list(DoorName))
    assert planned_faults(1, everything, 40) == planned_faults(1, everything, 40) != planned_faults(2, everything, 40)
    assert {planned.fault for planned in planned_faults(1, everything, 40)} == set(everything)
    for door in DoorName:
        scripts = [script(1, door, number) for number in range(100)]
        assert scripts == [script(1, door, number) for number in range(100)]
        assert scripts != [script(2, door, number) for number in range(100)]


def test_redis_loses_its_data_only_where_the_ledger_puts_everything_back() -> None:
    assert Fault.FLUSH_REDIS in faults_for([DoorName.DELIVERY])
    assert Fault.FLUSH_REDIS not in faults_for(list(DoorName))
    assert Fault.KILL_POSTGRES not in faults_for([DoorName.QUEUES, DoorName.PROXY])


def test_one_process_is_harmed_only_where_a_toril_has_several() -> None:
    one_process = {Fault.KILL_PROCESS, Fault.FREEZE_PROCESS}
    assert one_process.isdisjoint(faults_for(list(DoorName)))
    assert one_process <= set(faults_for(list(DoorName), processes=2))


def test_only_a_replicated_redis_fails_over() -> None:
    for doors in ([DoorName.DELIVERY], list(DoorName)):
        one, replicated = set(faults_for(doors)), set(faults_for(doors, replicated=True))
        assert replicated >= FAILOVERS
        assert not FAILOVERS & one
        assert {Fault.FLUSH_REDIS, Fault.FREEZE_REDIS}.isdisjoint(replicated)
