"""When `make bench-guard` fails. How it measures is tried by running it (benchmarks/README.md)."""

import pytest
from benchmarks.guard import LIMIT_PERCENT, verdict
from benchmarks.interleaved import Comparison


def rounds(*ratios: float) -> Comparison:
    return Comparison("get", [(40.0, 40.0 * ratio) for ratio in ratios])


def test_a_request_that_takes_over_seven_percent_more_cpu_fails_with_a_line_that_says_so() -> None:
    said = verdict(rounds(1.08, 1.10, 1.09), LIMIT_PERCENT)
    assert said == "FAILED get: 9.0 % more CPU for a request than before (40.0 to 43.6 µs); the limit is 7 %"


@pytest.mark.parametrize(
    "ratios", [(1.0, 1.0), (0.5, 0.6), (1.06, 1.07)], ids=["the same", "faster", "within the limit"]
)
def test_a_request_that_takes_as_much_or_little_more_passes(ratios: tuple[float, ...]) -> None:
    assert verdict(rounds(*ratios), LIMIT_PERCENT) is None


def test_one_slow_round_of_a_noisy_machine_does_not_fail() -> None:
    assert verdict(rounds(1.0, 1.01, 3.0, 0.99, 1.0), LIMIT_PERCENT) is None


def test_a_repeated_measurement_is_judged_with_the_previous_one() -> None:
    first = rounds(1.08, 1.08, 1.08)
    assert verdict(first, LIMIT_PERCENT) is not None
    assert verdict(first + rounds(1.0, 1.0, 1.0, 1.0), LIMIT_PERCENT) is None
