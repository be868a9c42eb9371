"""Parsed job options by their stored text."""

from __future__ import annotations

from collections import OrderedDict

from toril.core.stored_job import StoredOptions, read_options


class OptionsCache:
    """A cache of parsed job options by their stored text, which is mostly the same for jobs of one kind."""

    def __init__(self, size: int = 4096) -> None:
        self._known: OrderedDict[bytes, StoredOptions] = OrderedDict()
        self._size = size

    def read(self, stored: bytes) -> StoredOptions:
        """Return `read_options` of the text, from the cache if it has it."""
        options = self._known.get(stored)
        if options is None:
            options = read_options(stored)
            if len(stored) < 1024:  # an id or a deduplication in it makes it unique, and a large one costs memory
                self._known[stored] = options
                if len(self._known) > self._size:
                    self._known.popitem(last=False)
        return options
