"""Programs of other languages that some tests need."""

import os
import shutil
from typing import NoReturn

import pytest


def need(*programs: str) -> None:
    """Skip the test, with the reason, where one of these is not installed; CI must not skip it."""
    for program in programs:
        if shutil.which(program) is None:
            missing(program)


def missing(program: str) -> NoReturn:
    """Skip the test because there is no such program; in CI it fails."""
    reason = f"{program} is not installed"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must not skip this")
    pytest.skip(reason)
