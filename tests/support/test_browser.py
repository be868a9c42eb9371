"""The tests' browser leaves nothing behind."""

from tests.support.browser import browser
from tests.support.processes import Family


def test_no_process_of_it_is_left() -> None:
    family = Family()
    with browser() as one:
        one.tab()
        family.look(one.pid)
        assert family.alive()
    assert family.alive() == []
