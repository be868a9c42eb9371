import pytest

from toril.engine.load_board import LoadBoard, size
from toril.engine.load_shedding import ACCEPTED_PER_JOB, LEAST_PER_S, LoadShedding

MANY = 1000
SOME_IDLE_TIME = 0.3


class Process:
    """A process that is busy for a share of its time, accepts so many requests a second, and begins what it may."""

    def __init__(self, board: LoadBoard | None = None, cores: int = 2) -> None:
        self.now_s = 0.0
        self.busy_s = 0.0
        self.idle_s = 0.0
        self.gate = LoadShedding(lambda: self.busy_s, lambda: self.idle_s, cores, lambda: self.now_s, board)

    def live(
        self, for_s: float, busy: float, accepts_per_s: float, tries: int = MANY, idle: float = SOME_IDLE_TIME
    ) -> int:
        """Jobs begun, of `tries` in each hundredth of a second. `idle` is the idle time of the machine's cores."""
        begun = 0
        for _ in range(round(for_s * 100)):
            self.now_s += 0.01
            self.busy_s += 0.01 * busy
            self.idle_s += 0.01 * idle
            for _ in range(round(accepts_per_s / 100)):
                self.gate.accepted()
            begun += sum(self.gate.may_begin() for _ in range(tries))
        return begun


class TwoProcesses:
    """Two processes of one instance: all requests come to the first, and both have jobs to begin."""

    def __init__(self) -> None:
        memory = bytearray(size(2))
        self.flooded, self.other = (Process(LoadBoard(memory, number, 2)) for number in range(2))

    def live(self, for_s: float, busy: float, accepts_per_s: float, idle: float) -> tuple[int, int]:
        """Jobs begun by each, the first of which is busy for this share of its time, and the second hardly."""
        first = second = 0
        for _ in range(round(for_s * 100)):
            first += self.flooded.live(0.01, busy, accepts_per_s, idle=idle)
            second += self.other.live(0.01, 0.1, 0, idle=idle)
        return first, second


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


@pytest.mark.parametrize(("busy", "accepts_per_s"), [(0.3, 6000), (0.6, 0)])
def test_a_full_machine_alone_holds_no_job_back(process: Process, busy: float, accepts_per_s: float) -> None:
    process.live(1.0, busy, accepts_per_s, idle=0.0)
    assert process.live(1.0, busy, accepts_per_s, idle=0.0) == 100 * MANY


def test_a_process_that_waits_half_its_time_while_no_core_is_idle_begins_only_a_share(process: Process) -> None:
    process.live(1.0, 0.5, 6000, idle=0.02)
    assert process.live(1.0, 0.5, 6000, idle=0.02) == pytest.approx(6000 / ACCEPTED_PER_JOB, rel=0.05)
    process.live(2.0, 0.5, 6000, idle=0.4)
    assert process.live(1.0, 0.5, 6000, idle=0.4) == 100 * MANY


def test_a_full_machine_has_time_to_spare_only_when_half_as_much_more_is_idle(process: Process) -> None:
    process.live(1.0, 0.5, 6000, idle=0.2)
    process.live(2.0, 0.5, 6000, idle=0.35)
    assert process.live(1.0, 0.5, 6000, idle=0.35) == pytest.approx(6000 / ACCEPTED_PER_JOB, rel=0.05)


def test_that_a_machine_has_become_full_is_known_after_a_whole_look(process: Process) -> None:
    process.live(1.0, 0.5, 6000, idle=0.9)
    process.live(0.25, 0.5, 6000, idle=0.1)
    assert process.live(0.1, 0.5, 6000, idle=0.1) == pytest.approx(0.1 * 6000 / ACCEPTED_PER_JOB, rel=0.1)


def test_a_look_that_the_ticks_of_the_system_make_wrong_lets_no_more_jobs_begin(process: Process) -> None:
    process.live(1.0, 0.5, 6000, idle=0.18)
    begun = sum(
        process.live(0.4, 0.5, 6000, idle=0.15) + process.live(0.1, 0.5, 6000, idle=0.45)  # a look each tenth
        for _ in range(10)
    )
    assert begun == pytest.approx(5 * 6000 / ACCEPTED_PER_JOB, rel=0.05)


@pytest.mark.parametrize(
    ("cores", "most_idle"),
    [(1, 0.25), (2, 0.25), (4, 0.125), (16, 0.1)],
)
def test_a_machine_is_full_while_less_than_half_a_core_or_a_tenth_of_all_is_idle(cores: int, most_idle: float) -> None:
    for idle, full in ((most_idle - 0.02, True), (most_idle + 0.02, False)):
        process = Process(cores=cores)
        process.live(1.0, 0.5, 6000, idle=idle)
        assert (process.live(1.0, 0.5, 6000, idle=idle) < 100 * MANY) is full


def test_on_a_full_machine_all_processes_give_way_to_the_requests_of_one() -> None:
    both = TwoProcesses()
    both.live(1.0, 0.5, 6000, idle=0.0)
    begun = both.live(1.0, 0.5, 6000, idle=0.0)
    assert begun == pytest.approx((6000 / ACCEPTED_PER_JOB / 2, 6000 / ACCEPTED_PER_JOB / 2), rel=0.05)


def test_with_a_core_to_spare_only_the_flooded_process_gives_way() -> None:
    both = TwoProcesses()
    both.live(1.0, 1.0, 6000, idle=0.3)
    first, second = both.live(1.0, 1.0, 6000, idle=0.3)
    assert (first, second) == (pytest.approx(6000 / ACCEPTED_PER_JOB, rel=0.05), 100 * MANY)


def test_processes_of_which_none_is_flooded_begin_all_jobs_on_a_full_machine() -> None:
    both = TwoProcesses()
    both.live(1.0, 0.2, 6000, idle=0.0)
    assert both.live(1.0, 0.2, 6000, idle=0.0) == (100 * MANY, 100 * MANY)


def test_the_other_processes_know_of_requests_to_one_that_has_no_job_to_begin() -> None:
    both = TwoProcesses()
    for _ in range(200):
        both.flooded.live(0.01, 0.5, 6000, tries=0, idle=0.0)
        both.other.live(0.01, 0.1, 0, idle=0.0)
    assert both.other.live(0.01, 0.1, 0, idle=0.0) < MANY


def test_soon_after_the_last_request_all_processes_begin_all_jobs() -> None:
    both = TwoProcesses()
    both.live(1.0, 0.5, 6000, idle=0.0)
    both.live(0.2, 0.5, 0, idle=0.0)
    assert both.live(0.1, 0.5, 0, idle=0.0) == (10 * MANY, 10 * MANY)
