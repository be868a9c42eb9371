import pytest

from toril.engine.load_shedding import ACCEPTED_PER_JOB, LEAST_PER_S, LoadShedding

MANY = 1000


class Process:
    """A process that is busy for a share of its time, accepts so many requests a second, and begins what it may."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.busy_s = 0.0
        self.gate = LoadShedding(lambda: self.busy_s, lambda: self.now_s)

    def live(self, for_s: float, busy: float, accepts_per_s: float, tries: int = MANY) -> int:
        """Jobs begun, of `tries` in each hundredth of a second."""
        begun = 0
        for _ in range(round(for_s * 100)):
            self.now_s += 0.01
            self.busy_s += 0.01 * busy
            for _ in range(round(accepts_per_s / 100)):
                self.gate.accepted()
            begun += sum(self.gate.may_begin() for _ in range(tries))
        return begun


@pytest.fixture
def process() -> Process:
    made = Process()
    made.live(1.0, 0.0, 0.0)
    return made


@pytest.mark.parametrize(("busy", "accepts_per_s"), [(0.0, 0), (0.5, 3000), (0.7, 100), (1.0, 0)])
def test_all_jobs_may_begin_if_time_is_left_or_no_request_comes(
    process: Process, busy: float, accepts_per_s: float
) -> None:
    process.live(1.0, busy, accepts_per_s)
    assert process.live(1.0, busy, accepts_per_s) == 100 * MANY


def test_without_time_left_only_a_share_of_accepted_jobs_may_begin(process: Process) -> None:
    process.live(1.0, 1.0, 6000)
    assert process.live(1.0, 1.0, 6000) == pytest.approx(6000 / ACCEPTED_PER_JOB, rel=0.05)


def test_few_large_requests_do_not_starve_the_jobs(process: Process) -> None:
    process.live(1.0, 1.0, 100)
    assert process.live(1.0, 1.0, 100) == pytest.approx(LEAST_PER_S, rel=0.05)


def test_unused_permission_to_begin_jobs_is_not_saved_up(process: Process) -> None:
    process.live(2.0, 1.0, 6000, tries=0)
    assert process.live(0.05, 1.0, 6000) <= 0.07 * 6000 / ACCEPTED_PER_JOB + 1


def test_a_moment_of_work_is_no_lack_of_time(process: Process) -> None:
    process.live(1.0, 0.2, 1000)
    assert process.live(0.03, 1.0, 1000) == 3 * MANY


def test_soon_after_the_last_request_all_jobs_may_begin(process: Process) -> None:
    process.live(1.0, 1.0, 6000)
    process.live(0.05, 1.0, 0)
    assert process.live(0.01, 1.0, 0) == MANY


def test_after_a_long_idle_time_no_job_is_held_back(process: Process) -> None:
    process.live(1.0, 1.0, 6000)
    process.now_s += 60.0
    process.gate.accepted()
    assert process.gate.may_begin()
