"""How often groups were held back, counted under a limited number of names."""

from toril.bullmq.groups.held import GroupsHeld
from toril.core.metrics import GROUP_HELD
from toril.testing import FakeClock, FakeMeter


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.meter = FakeMeter()
        self.held = GroupsHeld(self.clock)
        self.held.follow(self.meter)

    def hold(self, name: str, waiting: int, reason: bytes = b"rate", queue: str = "q") -> None:
        self.held.count(queue, [name.encode(), reason, waiting])

    def counted(self) -> dict[tuple[str, ...], float]:
        return {labels: count for (metric, labels), count in self.meter.counts.items() if metric is GROUP_HELD}

    def named(self) -> set[str]:
        return {group for _, group, _ in self.counted()} - {"other"}


def test_each_reason_is_counted_for_each_group() -> None:
    world = World()
    world.held.count("q", [b"a", b"rate", 3, b"b", b"paused", 1])
    world.hold("a", 2)
    world.hold("a", 2, b"concurrency")
    assert world.counted() == {
        ("q", "a", "rate"): 2, ("q", "a", "concurrency"): 1, ("q", "b", "paused"): 1,
    }  # fmt: skip


def test_twenty_groups_of_a_queue_have_names_and_the_rest_is_other() -> None:
    world = World()
    for number in range(30):
        world.hold(f"g{number}", 10)
    world.hold("g0", 10, queue="another")
    assert len(world.named()) == 20
    assert world.counted()["q", "other", "rate"] == 10
    assert world.counted()["another", "g0", "rate"] == 1


def test_a_much_larger_group_takes_the_place_of_the_smallest() -> None:
    world = World()
    for number in range(20):
        world.hold(f"g{number}", 10 + number)
    world.hold("little", 20)
    assert "little" not in world.named(), "twice the smallest is not much larger"
    world.hold("large", 21)
    assert "large" in world.named()
    assert "g0" not in world.named()
    assert len(world.named()) == 20


def test_a_group_that_is_not_held_for_long_gives_its_place_up() -> None:
    world = World()
    world.hold("old", 1_000_000)
    world.clock.jump(301)
    for number in range(20):
        world.hold(f"g{number}", 10)
    assert world.named() == {f"g{number}" for number in range(20)}


def test_a_group_called_other_counts_among_the_others() -> None:
    world = World()
    world.hold("other", 10)
    world.hold("other", 10)
    assert world.counted() == {("q", "other", "rate"): 2}
