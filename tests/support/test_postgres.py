"""The tests' PostgreSQL runs wherever the checkout lies; otherwise a fresh clone in root's own folder fails."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.support.postgres import NoPostgres, binaries, readable_copy, runs_as_nobody

PROGRAMS = ("postgres", "initdb", "pg_isready", "psql")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_programs_in_a_folder_of_roots_own_run_from_a_copy() -> None:
    try:
        found = binaries()
    except NoPostgres as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        private, public = Path(name) / "private", Path(name) / "public"
        private.mkdir()
        public.mkdir()
        hidden = readable_copy(found, private)
        private.chmod(0o700)
        Path(name).chmod(0o755)
        assert not runs_as_nobody(hidden)

        copied = readable_copy(hidden, public)
        assert [program for program in PROGRAMS if not runs_as_nobody(copied, program)] == []
