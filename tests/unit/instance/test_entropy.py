"""Random bytes for ids: none is given out twice."""

import os

from toril.instance.entropy import Entropy


def test_each_call_has_as_many_bytes_as_it_asks_for_and_none_twice() -> None:
    entropy = Entropy()
    given = [entropy(size) for size in (10, 4090, 6000, 10, 16, 0) for _ in range(100)]
    assert [len(one) for one in given] == [size for size in (10, 4090, 6000, 10, 16, 0) for _ in range(100)]
    ids = [one for one in given if one]
    assert len(set(ids)) == len(ids)


def test_bytes_are_not_those_of_a_piece_that_was_used() -> None:
    entropy = Entropy()
    given = b"".join(entropy(10) for _ in range(2_000))
    pieces = [given[at : at + 10] for at in range(len(given) - 10)]
    assert len(set(pieces)) == len(pieces)


def test_a_forked_process_has_other_bytes() -> None:
    entropy = Entropy()
    entropy(10)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, entropy(10))
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 10) != entropy(10)
    os.close(reading)
    os.close(writing)
