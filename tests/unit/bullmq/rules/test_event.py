"""Places in event streams, and several of them as one text."""

import base64
import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.bullmq.rules.event import Bookmark, position_of
from toril.core.errors import InvalidRequest

PLACES = st.tuples(st.integers(0, 2**48), st.integers(0, 2**32))


@given(st.dictionaries(st.text(min_size=3, max_size=20), PLACES, max_size=50))
def test_a_bookmark_reads_back_as_it_was_written(places: dict[str, tuple[int, int]]) -> None:
    bookmark = Bookmark()
    for queue, place in places.items():
        bookmark.move(queue, place)
    again = Bookmark.read(bookmark.text().decode())
    for queue in places:
        assert again.of(queue) == bookmark.of(queue)
    assert again.text() == bookmark.text()


def test_a_queue_that_is_not_in_the_bookmark_has_no_position() -> None:
    bookmark = Bookmark()
    bookmark.move("orders", (5, 1))
    assert Bookmark.read(bookmark.text().decode()).of("invoices") is None


def test_the_id_of_one_event_is_the_place_in_all_queues() -> None:
    assert Bookmark.read("12-3").of("orders") == position_of("12-3")
    assert Bookmark.read("0").of("invoices") == (0, 0)


def test_a_position_inside_an_entry_is_kept_as_that_entrys_id() -> None:
    bookmark = Bookmark()
    bookmark.move("orders", (5, 1, 1))
    assert bookmark.of("orders") == (5, 1)


@given(st.text(max_size=40))
def test_any_other_text_as_a_bookmark_is_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequest):  # and nothing else is raised
        Bookmark.read(text)


@pytest.mark.parametrize("content", [{"orders": (1, 2)}, {1: (1,)}, {1: ("a", "b")}, {1: (-1, 0)}, [1], 7])
def test_a_text_of_another_shape_is_refused(content: object) -> None:
    text = base64.urlsafe_b64encode(msgspec.msgpack.encode(content)).decode().rstrip("=")
    with pytest.raises(InvalidRequest, match="Invalid event id"):
        Bookmark.read(text)
