"""Fixtures of the delivery door's unit tests."""

import pytest

from tests.unit.delivery.pipeline import Pipeline
from toril.testing import FakeClock


@pytest.fixture
def pipeline(clock: FakeClock) -> Pipeline:
    return Pipeline(clock)
