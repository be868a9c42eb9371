import math
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.moments import shown


@pytest.mark.parametrize(
    ("at_s", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1798761600.9999, "2027-01-01T00:00:00.999Z"),
        (253402300799.9999, "9999-12-31T23:59:59.999Z"),
        (253402351199.0, "9999-12-31T23:59:59.999Z"),
        (math.inf, "9999-12-31T23:59:59.999Z"),
        (-62135647200.0, "0001-01-01T00:00:00.000Z"),
        (-1e300, "0001-01-01T00:00:00.000Z"),
    ],
)
def test_what_is_beyond_the_calendar_is_shown_as_its_end(at_s: float, text: str) -> None:
    assert shown(at_s) == text


@given(st.floats() | st.integers())
def test_every_number_can_be_shown(at_s: float) -> None:
    assert datetime.fromisoformat(shown(at_s, "seconds")).utcoffset() is not None
