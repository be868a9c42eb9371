"""Parsed job options by their stored text."""

from __future__ import annotations

from collections import OrderedDict

from msgspec.structs import replace

from toril.core.stored_job import StoredOptions, read_options


class OptionsCache:
    """A cache of parsed job options by their stored text, which is mostly the same for jobs of one kind."""

    def __init__(self, size: int = 4096) -> None:
        self._known: OrderedDict[bytes, StoredOptions] = OrderedDict()
        self._size = size

    def read(self, stored: bytes, job_id: bytes = b"") -> StoredOptions:
        """Return `read_options` of the text, from the cache if it has it, or has that of a job with another id."""
        options = self._known.get(stored)
        if options is not None:
            return options
        named = b'"jobId":"%b"' % job_id
        if job_id and named in stored and not (b'"' in job_id or b"\\" in job_id):
            # Its producer chose the id, which makes the text unique.
            kind = stored.replace(named, b'"jobId":""', 1)
            options = self.read(kind)
            return replace(options, text=stored) if options.text == kind else read_options(stored)
        options = read_options(stored)
        if len(stored) < 1024:  # a deduplication in it may make it unique, and a large one costs memory
            self._known[stored] = options
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        return options
