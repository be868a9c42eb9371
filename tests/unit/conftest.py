"""Unit tests do no I/O. What takes longer than a second here is broken."""

import pytest
from hypothesis import settings

settings.register_profile("unit", deadline=None)
settings.load_profile("unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/unit/" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(90))
