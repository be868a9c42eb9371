"""One of a consumer's places for a job."""

from __future__ import annotations

import asyncio

from toril.core.lease import Lease


class Slot:
    """A place for one job at a time, and the task that works on it.

    The lock token belongs to the slot and holds the lock of every job that passes through it, as in BullMQ.
    Only an attempt may be broken off (`attempting`): a job that is being taken or settled is left to finish that.

    `doubtful`: Redis did not answer a call with the token, so it may have leased a job under it. `spent`: an endpoint
    goes on with the token, so the next job gets another one; the endpoint could settle a job that it lost, should that
    come to this slot again. `dismissed`: it begins nothing, and waits for no endpoint that settles later. `stalled`:
    its worker vanished while it worked. `news` is set when something was heard of a job that is settled later.
    """

    __slots__ = ("attempting", "dismissed", "doubtful", "lease", "news", "spent", "stalled", "task", "token")

    def __init__(self, token: bytes) -> None:
        self.token = token
        self.lease: Lease | None = None
        self.task: asyncio.Task[None] | None = None
        self.attempting = False
        self.doubtful = False
        self.spent = False
        self.stalled = False
        self.dismissed = False
        self.news = asyncio.Event()

    def break_off(self) -> None:
        """Cancel the attempt under way, if there is one."""
        if self.attempting and self.task is not None:
            self.attempting = False
            self.task.cancel()

    def dismiss(self) -> None:
        """Begin no other job, and give up waiting for an endpoint that settles later."""
        self.dismissed = True
        self.news.set()
