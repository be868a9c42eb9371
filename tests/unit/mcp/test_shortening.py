"""Answers of tools are bounded, whatever is in them."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from toril.mcp.rules.shortening import MOST_BYTES, NOTE, cut_text, shortened

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


def size(answer: object) -> int:
    return len(msgspec.json.encode(answer))


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_a_short_answer_stays_as_it_is(answer: dict[str, object]) -> None:
    assert shortened(answer) == answer or size(answer) > MOST_BYTES or NOTE in str(shortened(answer))


def test_a_long_text_is_cut_and_says_how_much_is_missing() -> None:
    assert cut_text("abcdef", 4) == "abcd… (2 more characters)"
    short = shortened({"a": "x" * 2 * MOST_BYTES, "b": 1})
    assert (short["b"], short["note"]) == (1, NOTE)
    assert short["a"] == "x" * 4000 + f"… ({2 * MOST_BYTES - 4000} more characters)"


def test_a_long_list_and_a_large_object_are_cut() -> None:
    short = shortened({"list": ["y" * 100] * 1000, "object": {str(n): "z" * 100 for n in range(1000)}})
    assert short["list"][-1] == f"… {1000 - len(short['list']) + 1} more"
    assert short["object"]["…"] == f"{1000 - len(short['object']) + 1} more"
    assert size(short) <= MOST_BYTES


def test_escapes_count_as_they_are_written() -> None:
    assert size(shortened({"a": ["\x00" * 1000] * 100})) <= MOST_BYTES


def test_a_deep_answer_is_cut() -> None:
    deep: object = "bottom"
    for _ in range(50):
        deep = {"d": deep}
    short = shortened({"a": deep})
    assert "bottom" not in str(short)
    assert short["note"] == NOTE


def test_what_no_cutting_makes_short_is_left_out() -> None:
    def tree(depth: int) -> object:
        return "leaf" * 10 if depth == 0 else [tree(depth - 1) for _ in range(6)]

    short = shortened({"a": tree(6)})
    assert size(short) <= MOST_BYTES
