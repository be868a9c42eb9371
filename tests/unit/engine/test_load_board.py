from toril.engine.load_board import LoadBoard, size


def test_each_process_sees_what_all_have_accepted_and_whether_one_is_flooded() -> None:
    memory = bytearray(size(3))
    boards = [LoadBoard(memory, number, 3) for number in range(3)]
    boards[0].tell(5)
    boards[2].tell(2)
    boards[2].tell(1)
    boards[2].tell_flooded(70.0)
    assert [board.accepted() for board in boards] == [8, 8, 8]
    assert [board.flooded_since(70.0) for board in boards] == [True, True, True]
    assert [board.flooded_since(70.5) for board in boards] == [False, False, False]


def test_a_process_that_is_started_again_continues_its_count() -> None:
    memory = bytearray(size(2))
    LoadBoard(memory, 1, 2).tell(5)
    LoadBoard(memory, 1, 2).tell(1)
    assert LoadBoard(memory, 0, 2).accepted() == 6
