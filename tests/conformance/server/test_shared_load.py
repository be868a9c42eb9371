"""What the processes of an instance tell each other of their load, in a real file and from a real process."""

import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from tests.support.waiting import eventually
from toril.config.loading import load
from toril.engine.load_board import lay_out, mapped
from toril.instance.proxy import load_shedding_of

TELLS = """
import sys
from toril.engine.load_board import mapped
board = mapped(sys.argv[1], 1, 2)
board.tell(3)
board.tell_flooded(70.0)
"""


def test_a_process_sees_what_another_one_tells(tmp_path: Path) -> None:
    lay_out(tmp_path, 2)
    board = mapped(str(tmp_path), 0, 2)
    assert board is not None
    assert (board.accepted(), board.flooded_since(70.0)) == (0, False)
    subprocess.run([sys.executable, "-c", TELLS, str(tmp_path)], check=True, timeout=60)
    assert (board.accepted(), board.flooded_since(70.0), board.flooded_since(70.1)) == (3, True, False)


def test_the_load_shedding_of_a_process_tells_the_others_what_it_accepts(tmp_path: Path) -> None:
    lay_out(tmp_path, 2)
    settings = load({})
    second = replace(
        settings,
        engine=replace(settings.engine, process=1, processes=2),
        metrics=replace(settings.metrics, folder=str(tmp_path)),
    )
    shedding, board = load_shedding_of(second), mapped(str(tmp_path), 0, 2)
    assert board is not None
    shedding.accepted()
    eventually(lambda: shedding.may_begin() and board.accepted() == 1, what="the request is told")


@pytest.mark.parametrize("content", [None, b"short"])
def test_a_process_that_cannot_share_its_load_goes_on_alone(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "load").write_bytes(content)
    with capture_logs() as lines:
        assert mapped(str(tmp_path), 0, 2) is None
    assert [line["event"] for line in lines] == ["load.not_shared"]


def test_one_process_alone_shares_nothing() -> None:
    assert mapped(None, 0, 1) is None
