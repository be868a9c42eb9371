"""Items of a list of statuses that another list takes the effect of."""

from typing import Any

import pytest

from toril.core.http.statuses import first_beaten


@pytest.mark.parametrize(
    ("retry_on", "fail_on", "beaten"),
    [
        ([408, 503], [503], (1, 503)),
        (["4xx", "5xx"], ["5xx", 400], (1, "5xx")),
        (["5xx"], [*range(500, 600)], (0, "5xx")),
        (["5xx"], [501], None),
        ([], ["5xx"], None),
        ([503], [], None),
        (None, [503], None),
        ([503], None, None),
        (["7xx", [503], None, {}], ["5xx"], None),
        ("5xx", ["5xx"], None),
    ],
)
def test_the_first_item_without_an_effect_is_found(retry_on: Any, fail_on: Any, beaten: Any) -> None:
    assert first_beaten(retry_on, fail_on) == beaten
