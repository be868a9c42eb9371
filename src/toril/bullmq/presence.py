"""Makes toril's workers visible to BullMQ's `getWorkers`, which dashboards use.

`getWorkers` finds workers by the names of their Redis connections. toril shares its connections between all queues,
so each queue that had a job recently gets one more connection, which only carries the name. Their number is limited,
and idle queues have none.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from toril.bullmq.keys import QueueKeys
from toril.core.metrics import UNMETERED
from toril.core.ports import Meter
from toril.redis.connection import Link
from toril.redis.links import Links
from toril.redis.policy import RedisAddress, StorePolicy

_SWEEP_S = 5.0


class PresenceConnections:
    """At most `presence_connections` named connections, for the queues that were active most recently."""

    def __init__(
        self,
        links: Links,
        address: RedisAddress,
        policy: StorePolicy,
        tasks: asyncio.TaskGroup,
        meter: Meter = UNMETERED,
    ) -> None:
        self._links = links
        self._address = address
        self._meter = meter
        self._policy = policy
        self._tasks = tasks
        self._held: OrderedDict[str, tuple[asyncio.Task[None], float]] = OrderedDict()

    def active(self, queue: str) -> None:
        """Give the queue a named connection: it has just had a job."""
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
        name = QueueKeys(self._policy.queue_prefix, queue).presence_name()
        link = Link(self._locate, self._policy, name=name, meter=self._meter)
        self._links.follow(link)
        self._held[queue] = (self._tasks.create_task(link.run(), name=f"presence:{queue}"), now)

    def _locate(self) -> RedisAddress:
        """Return where BullMQ asks who is connected: in a cluster any node will do."""
        return self._address if self._address.cluster else self._links.address_of(b"")

    def gone(self, queue: str) -> None:
        """Close the queue's named connection: it has no worker in this process."""
        held = self._held.pop(queue, None)
        if held is not None:
            held[0].cancel()

    async def run(self) -> None:
        """Close the connections of queues that have been idle for `presence_for_s`, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_SWEEP_S, self._policy.presence_for_s))
            before = loop.time() - self._policy.presence_for_s
            for queue in [queue for queue, (_, at) in self._held.items() if at < before]:
                self.gone(queue)
