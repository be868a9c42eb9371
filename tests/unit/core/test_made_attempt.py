from typing import Any

import msgspec
import pytest

from toril.core.made_attempt import (
    FIELD,
    MOST,
    MOST_CHARACTERS,
    Ending,
    MadeAttempt,
    attempts_of,
    broken_off_attempt,
    ending_of,
    failed_attempt,
    with_attempt,
)
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut, WorkerError
from toril.core.verdict import DeadLetter, Fail, Retry

NOW_S = 1_700_000_000.0


def made(number: int, at: int = 1000, **more: Any) -> MadeAttempt:
    return MadeAttempt(number, at, 10, "failed", "retry", **more)


def stored(*attempts: MadeAttempt) -> bytes:
    kept = b""
    for attempt in attempts:
        kept = with_attempt(kept, attempt)
    return kept


@pytest.mark.parametrize(
    ("outcome", "word", "status"),
    [
        (Answered(503, "", [], b"", 0.5), "failed", 503),
        (TimedOut("answer", 0.5), "timeout", None),
        (ConnectFailed("ECONNREFUSED", "", 0.5), "connect_error", None),
        (CutOff("ECONNRESET", "", 0.5), "cut_off", None),
        (Replied(b"", WorkerError("no"), 0.5), "failed", None),
    ],
)
def test_each_outcome_of_an_attempt_has_a_word(outcome: Outcome, word: str, status: int | None) -> None:
    assert ending_of(outcome) == Ending(word, 0.5, status)


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (Retry(2000, "busy", "trace"), ("retry", "busy", 2000)),
        (Retry(-1, "busy", "trace"), ("retry", "busy", 0)),
        (Fail("no", "trace"), ("fail", "no", None)),
        (DeadLetter("attempts", "503"), ("dead_letter", "503", None)),
        (DeadLetter("attempts", ""), ("dead_letter", "attempts", None)),
        (Fail("x" * 1000, "trace"), ("fail", "x" * MOST_CHARACTERS, None)),
    ],
)
def test_an_attempt_says_what_was_decided_and_why(
    verdict: Retry | Fail | DeadLetter, told: tuple[str, str, int | None]
) -> None:
    attempt = failed_attempt(3, Ending("failed", 1.5, 500), verdict, "push_worker", NOW_S)
    assert (attempt.verdict, attempt.reason, attempt.next_in_ms) == told
    assert (attempt.number, attempt.at, attempt.duration_ms) == (3, 1_699_999_998_500, 1500)
    assert (attempt.worker, attempt.status) == ("push", 500)


@pytest.mark.parametrize(
    ("kind", "shown"), [("socket_worker", "socket"), ("pull_worker", "lease"), ("target", "target")]
)
def test_an_attempt_names_the_kind_of_its_worker(kind: str, shown: str) -> None:
    assert failed_attempt(1, Ending("failed", 0.0), Fail("", ""), kind, NOW_S).worker == shown


@pytest.mark.parametrize(
    ("stalled", "told"),
    [
        (True, ("stalled", "retry", "The worker was gone: the job stalled")),
        (False, ("released", "release", None)),
    ],
)
def test_an_attempt_that_was_broken_off_lasted_from_its_begin(stalled: bool, told: tuple[str, str, str | None]) -> None:
    attempt = broken_off_attempt(2, {b"processedOn": b"1699999999000"}, "socket_worker", NOW_S, stalled=stalled)
    assert (attempt.outcome, attempt.verdict, attempt.reason) == told
    assert (attempt.number, attempt.at, attempt.duration_ms, attempt.worker) == (2, 1_699_999_999_000, 1000, "socket")


@pytest.mark.parametrize("begun", [{}, {b"processedOn": b"x"}, {b"processedOn": b"1700000009000"}])
def test_an_attempt_whose_begin_is_not_known_has_lasted_no_time(begun: dict[bytes, bytes]) -> None:
    attempt = broken_off_attempt(1, begun, "push_worker", NOW_S, stalled=True)
    assert (attempt.at, attempt.duration_ms) == (1_700_000_000_000, 0)


def test_the_last_attempts_are_kept_and_shown_newest_first() -> None:
    kept = stored(*(made(number, number * 100, reason="\n\u2028") for number in range(1, 121)))
    shown = attempts_of({FIELD.encode(): kept}, completed=False)
    assert [attempt.number for attempt in shown] == list(range(120, 120 - MOST, -1))
    assert {attempt.reason for attempt in shown} == {"\n\u2028"}


def test_the_stored_size_of_attempts_is_bounded() -> None:
    worst = failed_attempt(10**6, Ending("connect_error", 10**6), Fail("\x01" * 10**6, ""), "push_worker", NOW_S)
    assert len(stored(*[worst] * 100)) < 70_000


def test_the_attempt_that_completed_the_job_is_told_by_its_times() -> None:
    fields = {
        FIELD.encode(): stored(made(1, 2000, next_in_ms=500)),
        b"timestamp": b"1500", b"processedOn": b"2600", b"finishedOn": b"2700", b"atm": b"2",
    }  # fmt: skip
    last, first = attempts_of(fields, completed=True)
    assert msgspec.to_builtins(last) == {
        "number": 2, "at": 2600, "durationMs": 100, "outcome": "completed", "verdict": "complete", "worker": None,
        "status": None, "reason": None, "nextInMs": None, "waitedMs": 590,
    }  # fmt: skip
    assert (first.number, first.waited_ms) == (1, 500)


def test_a_job_waits_for_its_first_attempt_from_when_it_was_due() -> None:
    fields = {b"timestamp": b"1000", b"delay": b"700", b"processedOn": b"2000", b"finishedOn": b"2001", b"atm": b"1"}
    assert [attempt.waited_ms for attempt in attempts_of(fields, completed=True)] == [300]


def test_how_long_a_job_waited_is_not_known_where_the_attempt_before_is_gone() -> None:
    assert attempts_of({FIELD.encode(): stored(made(7)), b"timestamp": b"1"}, completed=False)[0].waited_ms is None


@pytest.mark.parametrize("fields", [{}, {b"processedOn": b"1000"}, {b"finishedOn": b"x", b"processedOn": b"y"}])
def test_a_job_without_an_attempt_has_an_empty_list(fields: dict[bytes, bytes]) -> None:
    assert attempts_of(fields, completed=True) == []


def test_words_that_a_newer_version_has_written_are_shown_as_they_are() -> None:
    newer = (
        b'{"number":1,"at":5,"durationMs":1,"outcome":"by_pigeon","verdict":"moult","worker":"dovecote","wind":"NE"}'
    )
    (shown,) = attempts_of({FIELD.encode(): newer}, completed=False)
    assert (shown.outcome, shown.verdict, shown.worker) == ("by_pigeon", "moult", "dovecote")


def test_attempts_that_cannot_be_read_are_left_out() -> None:
    kept = b"nonsense\n" + stored(made(1)) + b'\n{"number":"x"}\n\xff'
    assert [attempt.number for attempt in attempts_of({FIELD.encode(): kept}, completed=False)] == [1]
