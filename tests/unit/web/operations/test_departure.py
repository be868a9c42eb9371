import asyncio
from pathlib import Path

from toril.web.operations.departure import Departure


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def departure(delay_s: float = 5.0, folder: Path | None = None, clock: Clock | None = None) -> tuple[Departure, Clock]:
    clock = clock or Clock()
    return Departure(delay_s, None if folder is None else str(folder), clock), clock


def test_without_a_probe_the_server_serves_for_the_delay() -> None:
    going, clock = departure()
    assert not going.begun
    going.begin()
    assert going.begun
    assert going.left_s() == 5.0
    clock.now += 4.0
    assert going.left_s() == 1.0
    clock.now += 1.5
    assert going.left_s() == 0.0


def test_the_delay_counts_from_the_first_refusal_of_each_prober() -> None:
    """HAProxy asks two seconds after SIGTERM, and believes it after two more refusals: six seconds after SIGTERM."""
    going, clock = departure()
    going.begin()
    clock.now += 2.0
    going.told("10.0.0.1")
    clock.now += 2.0
    going.told("10.0.0.1")
    clock.now += 2.0
    assert going.left_s() == 1.0


def test_every_address_that_asks_has_the_delay() -> None:
    going, clock = departure()
    going.begin()
    going.told("10.0.0.1")
    clock.now += 2.0
    going.told("10.0.0.2")
    assert going.left_s() == 5.0


def test_with_probes_the_shutdown_delay_lasts_at_most_twice_as_long() -> None:
    going, clock = departure()
    going.begin()
    for number in range(1000):
        clock.now += 0.01
        going.told(f"10.0.0.{number}")
    clock.now = 1009.5
    going.told("::1")
    assert going.left_s() <= 0.5
    clock.now = 1010.0
    assert going.left_s() == 0.0


def test_probes_answered_before_the_shutdown_began_do_not_count() -> None:
    going, clock = departure()
    going.told("10.0.0.1")
    clock.now += 100.0
    going.begin()
    clock.now += 1.0
    going.told("10.0.0.1")
    assert going.left_s() == 5.0


def test_without_a_delay_or_at_once_the_shutdown_waits_for_nothing() -> None:
    for delay_s, at_once in ((0.0, False), (5.0, True)):
        going, _ = departure(delay_s)
        going.begin(at_once=at_once)
        going.told("10.0.0.1")
        assert going.begun
        assert going.left_s() == 0.0
        asyncio.run(asyncio.wait_for(going.over(), 5))


def test_processes_behind_one_socket_share_who_was_told(tmp_path: Path) -> None:
    clock = Clock()
    first, second = departure(folder=tmp_path, clock=clock)[0], departure(folder=tmp_path, clock=clock)[0]
    first.begin()
    second.begin()
    clock.now += 2.0
    first.told("10.0.0.1")
    assert second.left_s() == 5.0
    clock.now += 2.0
    second.told("10.0.0.1")  # the same balancer, whose next check another process got
    assert (first.left_s(), second.left_s()) == (3.0, 3.0)


def test_a_folder_that_cannot_be_used_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "told-what").symlink_to("no number")
    going, clock = departure(folder=tmp_path)
    gone, _ = departure(folder=tmp_path / "gone", clock=clock)
    for each in (going, gone):
        each.begin()
    clock.now += 1.0
    gone.told("fe80::1%eth0/64")
    going.told("../..")
    assert (going.left_s(), gone.left_s()) == (5.0, 5.0)
