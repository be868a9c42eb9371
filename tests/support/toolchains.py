"""Programs of other languages that some tests need."""

import os
import shutil
from typing import NoReturn

import pytest


def need(*programs: str) -> None:
    """Skip the test, with the reason, where one of these is not installed; CI must not skip it."""
    for program in programs:
        path_of(program)


def path_of(program: str) -> str:
    """Return where a program is; where it is not installed, skip the test, which CI must not.

    Debian has servers in /usr/sbin, which is in root's PATH only.
    """
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") or missing(program)


def missing(program: str) -> NoReturn:
    """Skip the test because there is no such program; in CI it fails."""
    reason = f"{program} is not installed"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must not skip this")
    pytest.skip(reason)
