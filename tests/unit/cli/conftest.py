"""Commands set up the logging of a process; a test ends with that of before."""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_of_before() -> Iterator[None]:
    """Put the logging back that a command has set up: it writes to what pytest has closed by then."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level
