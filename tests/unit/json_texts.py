"""JSON as text, with the spellings that a decoder and an encoder between them would change."""

import json
from typing import Any

from hypothesis import strategies as st

# Same numbers, other digits: what a float would swallow, what has more than 64 bits, what JavaScript rounds.
NUMBERS = (
    "0", "-0", "-0.0", "1.0", "1.10", "1e5", "1E+05", "-1.5e-10", "9007199254740993", "18446744073709551617",
    "123456789012345678901234567890", "0.1000000000000000055511151231257827", "1e400", "-1e-400",
)  # fmt: skip
SPACES = ("", " ", "\n\t ", "  ")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.one_of(
    st.sampled_from(NUMBERS),
    st.integers().map(str),
    st.sampled_from(("true", "false", "null")),
    st.builds(json.dumps, texts),
    st.builds(lambda text: json.dumps(text, ensure_ascii=False), texts),
)


def _array(items: list[str], space: str) -> str:
    return f"[{space}{f',{space}'.join(items)}{space}]"


def _object(pairs: dict[str, str], space: str) -> str:
    return f"{{{space}{f' ,{space}'.join(f'{json.dumps(key)}:{space}{value}' for key, value in pairs.items())}}}"


json_texts = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(_array, st.lists(inner, max_size=4), st.sampled_from(SPACES)),
        st.builds(_object, st.dictionaries(texts, inner, max_size=4), st.sampled_from(SPACES)),
    ),
    max_leaves=8,
)
"""Any JSON text that Python's own decoder takes."""

json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from((2**53 - 1, 2**53, 2**64, 10**400, -1, 0, 1, 5.0, 0.5, -0.0, 1e300)),
        st.floats(allow_nan=False, allow_infinity=False),
        texts,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
"""Any JSON value."""
