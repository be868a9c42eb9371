"""One of a consumer's places for a job."""

from __future__ import annotations

import asyncio

from toril.core.lease import Lease


class Slot:
    """A place for one job at a time, and the task that works it.

    The lock token belongs to the slot and holds the lock of every job that passes through it, as in BullMQ.
    Only an attempt may be broken off: a job that is being taken or settled is left to finish doing so.

    A token that an endpoint goes on with is `spent`: the next job gets another one, so that the endpoint cannot settle
    what it has lost, should the job come to this slot again. A `dismissed` slot begins nothing more, and waits for no
    endpoint that settles later. The worker of a `stalled` slot vanished while it worked.
    """

    __slots__ = ("attempting", "dismissed", "doubtful", "lease", "spent", "stalled", "stir", "task", "token")

    def __init__(self, token: bytes) -> None:
        self.token = token
        self.lease: Lease | None = None
        self.task: asyncio.Task[None] | None = None
        self.attempting = False
        self.doubtful = False
        self.spent = False
        self.stalled = False
        self.dismissed = False
        self.stir = asyncio.Event()

    def break_off(self) -> None:
        """Cancel the attempt under way, if there is one."""
        if self.attempting and self.task is not None:
            self.attempting = False
            self.task.cancel()

    def dismiss(self) -> None:
        """Wait no longer for an endpoint that settles later: it does so without us."""
        self.dismissed = True
        self.stir.set()
