"""Parsed options of jobs, by their text."""

import pytest

from toril.bullmq.leasing.options_cache import OptionsCache
from toril.core.stored_job import read_options

OPTIONS = b'{"jobId":"%b","attempts":7,"removeOnComplete":true}'


@pytest.mark.parametrize("job_id", [b"a-1", b"b-2", b"", b'quo"ted', b"back\\slash"])
def test_options_are_those_of_the_text_whichever_id_is_in_it(job_id: bytes) -> None:
    cache = OptionsCache()
    for stored in (OPTIONS % b"another", OPTIONS % job_id, OPTIONS.replace(b"7", b"9") % job_id):
        assert cache.read(stored, job_id) == read_options(stored)
        assert cache.read(stored, b"another") == read_options(stored)


def test_shortened_options_with_an_id_are_shown_as_they_are_read() -> None:
    cache = OptionsCache()
    for job_id in (b"1", b"2"):
        stored = b'{"jobId":"%b","fpof":true,"tm":"00-a"}' % job_id
        assert cache.read(stored, job_id) == read_options(stored)


def test_jobs_whose_options_have_nothing_of_their_own_but_an_id_share_an_entry() -> None:
    cache = OptionsCache(size=1)
    first = cache.read(OPTIONS % b"1", b"1")
    again = cache.read(OPTIONS % b"2", b"2")
    assert again.keep_completed is first.keep_completed
