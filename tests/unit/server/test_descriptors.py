import errno
import os
import resource
import subprocess
import sys

import pytest

from toril.server import descriptors
from toril.server.descriptors import available, count_open, divided


@pytest.mark.parametrize(
    ("limit", "reserved"),
    [(32, 16), (64, 16), (160, 40), (1024, 256), (16_384, 4096), (2**20, 4096), (2**31 - 1, 4096)],
)
def test_the_reserve_is_a_quarter_of_the_descriptors_within_bounds(limit: int, reserved: int) -> None:
    have = divided(limit, 20)
    assert (have.limit, have.used, have.reserved) == (limit, 20, reserved)


def test_descriptors_in_other_use_are_not_for_callers() -> None:
    have = divided(1024, 20)
    assert [have.connections(others) for others in (20, 300)] == [748, 468]


def test_a_few_connections_are_always_allowed() -> None:
    assert divided(32, 30).connections(30) == 8


def test_open_descriptors_are_counted() -> None:
    before = count_open(10)
    assert before is not None
    pipe = os.pipe()
    assert count_open(10) == before + 2
    for descriptor in pipe:
        os.close(descriptor)
    assert available().used == before


@pytest.mark.parametrize(("number", "counted"), [(errno.EMFILE, 77), (errno.ENFILE, 77), (errno.ENOENT, None)])
def test_if_no_descriptor_is_left_to_count_with_all_are_in_use(
    number: int, counted: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> list[str]:
        raise OSError(number, path)

    monkeypatch.setattr(descriptors.os, "listdir", refuse)
    assert count_open(77) == counted


def test_the_soft_limit_becomes_the_hard_one() -> None:
    """In a separate process: not every user may raise the limit again."""
    code = (
        "import resource; from toril.server.descriptors import raise_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200)); raise_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == "(200, 200)"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 200
