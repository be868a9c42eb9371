"""Shows dashboards that queues are worked on.

BullMQ's `getWorkers` finds workers by the name of their Redis connection. toril shares its connections between
all queues, so each queue that had a job lately holds one more connection that only carries the name. Bounded,
and idle queues have none.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from toril.bull.connection import Link
from toril.bull.keys import QueueKeys
from toril.core.metrics import UNMETERED
from toril.core.policy import RedisAddress, StorePolicy
from toril.core.ports.shared import Meter

_SWEEP_S = 5.0


class PresenceConnections:
    """At most `presence_connections` named connections; the queues that were active last have them."""

    def __init__(
        self, address: RedisAddress, policy: StorePolicy, tasks: asyncio.TaskGroup, meter: Meter = UNMETERED
    ) -> None:
        self._address = address
        self._meter = meter
        self._policy = policy
        self._tasks = tasks
        self._held: OrderedDict[str, tuple[asyncio.Task[None], float]] = OrderedDict()

    def active(self, queue: str) -> None:
        """The queue had a job just now."""
        if self._policy.presence_connections <= 0:
            return
        now = asyncio.get_running_loop().time()
        held = self._held.get(queue)
        if held is not None:
            self._held[queue] = (held[0], now)
            self._held.move_to_end(queue)
            return
        if len(self._held) >= self._policy.presence_connections:
            self.gone(next(iter(self._held)))
        name = QueueKeys(self._policy.queue_prefix, queue).client_name()
        link = Link(self._address, self._policy, name=name, meter=self._meter)
        self._held[queue] = (self._tasks.create_task(link.run(), name=f"presence:{queue}"), now)

    def gone(self, queue: str) -> None:
        """The queue has no worker here any more."""
        held = self._held.pop(queue, None)
        if held is not None:
            held[0].cancel()

    async def run(self) -> None:
        """Let go of queues that have been quiet for long enough, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_SWEEP_S, self._policy.presence_for_s))
            before = loop.time() - self._policy.presence_for_s
            for queue in [queue for queue, (_, at) in self._held.items() if at < before]:
                self.gone(queue)
