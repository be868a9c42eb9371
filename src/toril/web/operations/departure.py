"""The time between SIGTERM and refusing requests, in which load balancers turn to other instances.

`/ready` says at once that the instance leaves; the rest is served as before for `shutdown.delay`. A balancer that
asks `/ready` from time to time believes it only after several refusals (HAProxy: three, two seconds apart, so four to
six seconds after SIGTERM). So the delay counts from the moment when an address that asks was told first, and from the
newest of these moments where there are several. It lasts at most twice as long.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_MOST_ADDRESSES = 100
_LOOK_S = 0.25
_PREFIX = "told-"


class Departure:
    """Whether an instance is going to stop, and for how long it still serves requests.

    Args:
        delay_s: for how long requests are served after the last asking address was told.
        folder: of all processes behind one socket, each of which gets only some of a balancer's questions.
        now: seconds by a clock that all processes of a machine share, and that is never set.
    """

    def __init__(self, delay_s: float, folder: str | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.begun = False
        self._delay_s = delay_s
        self._folder = None if folder is None else Path(folder)
        self._now = now
        self._began_at = 0.0
        # When each address was refused first.
        self._told: dict[str, float] = {}

    def begin(self, *, at_once: bool = False) -> None:
        """Begin to stop; with `at_once`, refuse requests from now on."""
        self.begun = True
        self._began_at = self._now()
        if at_once:
            self._delay_s = 0.0

    def told(self, address: str) -> None:
        """Note that `/ready` has refused a caller at this address."""
        if not self.begun or address in self._told or len(self._told) >= _MOST_ADDRESSES:
            return
        self._told[address] = now = self._now()
        if self._folder is not None:
            # A link is made together with its content, and only by the first process that tries. Without it this
            # process still knows, and the others end their delay no later than twice as long.
            with suppress(OSError):
                os.symlink(repr(now), self._folder / (_PREFIX + address.replace("/", "_")))

    def left_s(self) -> float:
        """Return for how long requests are still served, by what is known now."""
        if not self._delay_s:
            return 0.0
        since = max((self._began_at, *(self._told if self._folder is None else self._told_by_all()).values()))
        until = min(since + self._delay_s, self._began_at + 2 * self._delay_s)
        return max(0.0, until - self._now())

    async def over(self) -> None:
        """Wait until requests are to be refused."""
        while left_s := self.left_s():  # noqa: ASYNC110 - another process may be told meanwhile
            await asyncio.sleep(min(left_s, _LOOK_S))

    def _told_by_all(self) -> dict[str, float]:
        """Return when each address was refused first, by any of the processes behind the socket."""
        assert self._folder is not None  # noqa: S101 - for the type checker
        told: dict[str, float] = {}
        with suppress(OSError):
            for link in self._folder.glob(_PREFIX + "*"):
                with suppress(OSError, ValueError):
                    told[link.name.removeprefix(_PREFIX)] = float(os.readlink(link))
        return told or self._told
