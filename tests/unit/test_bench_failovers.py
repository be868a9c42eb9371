"""The figures of a failover by the answers that callers got. How it is measured is tried by running it."""

from benchmarks.failovers import Answer, measured


def answers(*given: tuple[float, bool]) -> list[Answer]:
    """Answers that ended then, each acknowledged or not."""
    return [Answer(ended - 0.01, ended, ok) for ended, ok in given]


def test_errors_count_until_the_last_answer_that_was_one() -> None:
    found = measured(answers((1.0, True), (2.0, False), (4.5, False), (4.6, True)), at=1.0, known=3.0)
    # Nothing was acknowledged when it was known, until 4.6.
    assert (found.known, found.after, found.gap, found.errors) == (2.0, 4.6 - 3.0, 4.6 - 1.0, 2)


def test_a_wait_without_errors_counts_too() -> None:
    found = measured(answers((1.0, True), (3.5, True)), at=1.0, known=3.0)
    assert (found.after, found.gap, found.errors) == (0.5, 2.5, 0)


def test_callers_who_noticed_nothing_have_no_seconds_of_errors() -> None:
    found = measured(answers((1.0, True), (2.9, True), (3.1, True)), at=2.5, known=3.0)
    assert (found.after, found.errors) == (0.0, 0)
