"""Room that deliveries take in their groups before their jobs are there."""

from toril.delivery.postgres_queue.taken_room import TakenRoom
from toril.testing import FakeClock


def test_what_each_group_has_taken_is_counted_until_it_is_freed() -> None:
    room = TakenRoom(FakeClock())
    assert [room.take("billing", "a", name) for name in ("1", "2", "2")] == [1, 2, 2]
    assert (room.take("billing", "b", "3"), room.take("mail", "a", "4")) == (1, 1)
    room.free("billing", "a", "1")
    room.free("billing", "c", "1")
    assert room.take("billing", "a", "5") == 2


def test_what_is_never_freed_is_forgotten_after_ten_seconds() -> None:
    clock = FakeClock()
    room = TakenRoom(clock)
    room.take("billing", "a", "1")
    clock.jump(9.9)
    assert room.take("billing", "a", "2") == 2
    clock.jump(0.2)
    assert room.take("billing", "a", "3") == 2
