"""Waits for jobs of all queues of the process on a few blocking connections.

Every BullMQ queue has a marker, a sorted set that gets a member when a job may be waiting: `0` for now, or `1` with
the time of the earliest delayed job as its score. One `BZPOPMIN` takes many marker keys, so thousands of idle queues
share a handful of connections. Each key makes a wake more expensive (65, 105, 407 and 1,936 µs of Redis' time at 1,
100, 1,000 and 10,000 keys), so the queues are divided among lanes of a few hundred. A queue that was woken recently
waits in a separate, short lane: it wakes cheaply, and the keys of hundreds of other queues are not sent again. After
ten quiet seconds it goes back to its lane. On Redis Cluster, where one call may only name keys of one slot, there are
lanes per slot.

A marker that was popped is gone for every worker, so it is put back if this process has stopped waiting for the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.groups import HELD_MS
from toril.core.errors import ConnectionLost, StoreError, StoreTimeout
from toril.core.metrics import UNMETERED
from toril.core.ports import Meter
from toril.redis.links import FollowingLink, KeyPlace, Links
from toril.redis.policy import StorePolicy
from toril.redis.resp import ReplyError, Wire, pack

BLOCK_S = 10
RECENT_S = 10.0
_GATHER_S = 0.002
_BETWEEN_S = 0.01
_AWAY_S = 0.25
_REFUSED_S = 1.0

log = structlog.get_logger(__name__)
Wake = Callable[[float], None]


class Markers:
    """The waits of one process. Run `run()` as a task; call `watch` and `unwatch` from the event loop."""

    def __init__(self, links: Links, policy: StorePolicy, tasks: asyncio.TaskGroup, meter: Meter = UNMETERED) -> None:
        self._links = links
        self._meter = meter
        self._policy = policy
        self._tasks = tasks
        # By group of slots: a single server has one group; in a cluster one call may only name keys of one slot.
        self._recent: dict[int, _Lane] = {}
        self._lanes: list[_Lane] = []
        self._homes: dict[str, _Lane] = {}
        self._woken: dict[str, float] = {}

    def watch(self, queue: str, wake: Wake) -> None:
        """Wait for a marker of this queue; then call `wake` once."""
        lane = self._recent_lane(queue) if queue in self._woken else self._home(queue)
        lane.add(queue, wake)

    def unwatch(self, queue: str) -> None:
        """Stop waiting for this queue."""
        for lane in (self._homes.get(queue), *self._recent.values()):
            if lane is not None:
                lane.discard(queue)

    def forget(self, queue: str) -> None:
        """Remove the queue from its lane: its last consumer in this process has stopped."""
        self.unwatch(queue)
        self._woken.pop(queue, None)
        home = self._homes.pop(queue, None)
        if home is not None:
            home.members -= 1

    async def run(self) -> None:
        """Move quiet queues back to their lanes, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(RECENT_S / 2)
            before = loop.time() - RECENT_S
            for queue in [queue for queue, at in self._woken.items() if at < before]:
                del self._woken[queue]
                wake = self._recent_lane(queue).discard(queue)
                if wake is not None:
                    self._home(queue).add(queue, wake)

    def woke(self, queue: str) -> None:
        """Record that a marker of this queue was popped."""
        self._woken[queue] = asyncio.get_running_loop().time()

    def _recent_lane(self, queue: str) -> _Lane:
        group = self._links.group(self.key(queue))
        lane = self._recent.get(group)
        if lane is None:
            lane = self._recent[group] = _Lane(self, f"recent-{group}" if group else "recent", group)
        return lane

    def _home(self, queue: str) -> _Lane:
        lane = self._homes.get(queue)
        if lane is None:
            group = self._links.group(self.key(queue))
            room = (lane for lane in self._lanes if lane.group == group and lane.members < self._policy.marker_shard)
            lane = next(room, None)
            if lane is None:
                lane = _Lane(self, f"lane-{len(self._lanes) + 1}", group)
                self._lanes.append(lane)
            lane.members += 1
            self._homes[queue] = lane
        return lane

    def key(self, queue: str) -> bytes:
        """Return the marker key of a queue."""
        return QueueKeys(self._policy.queue_prefix, queue).key("marker")

    def open(self, lane: _Lane, key: bytes) -> FollowingLink:
        """Open a connection for a lane to the node that has its keys; its tasks run as long as the process does."""
        link = FollowingLink(
            KeyPlace(self._links, key),
            self._policy,
            name=f"toril:{lane.name}",
            prepare=lane.prepare,
            patience_s=BLOCK_S + 5,
            meter=self._meter,
        )
        self._tasks.create_task(link.run(), name=f"redis:{lane.name}")
        self._tasks.create_task(lane.run(link), name=f"markers:{lane.name}")
        return link

    async def unblock(self, key: bytes, client_id: int) -> bool:
        """Make a lane's blocking call return; return False if it was not blocked (yet)."""
        return bool(await self._links.of(key).call("CLIENT", "UNBLOCK", client_id))

    def put_back(self, queue: str, at_s: float) -> None:
        """Put a marker back for the next worker that waits. If Redis is away, the recoverer's polls find the job."""
        score = b"%d" % (at_s * 1000)
        self._tasks.create_task(self._put_back(self.key(queue), b"1" if at_s else b"0", score))

    async def _put_back(self, key: bytes, member: bytes, score: bytes) -> None:
        try:
            await self.give_back(key, member, score)
        except StoreError as exc:
            log.debug("markers.put_back_failed", error=exc.message)

    async def give_back(self, key: bytes, member: bytes, score: bytes) -> None:
        """Put a popped marker back, unless an earlier one has been added meanwhile."""
        await self._links.of(key).call("ZADD", key, "LT", score, member)


class _Lane:
    """A blocking connection and the queues that wait on it."""

    def __init__(self, markers: Markers, name: str, group: int) -> None:
        self.name = name
        self.group = group
        self.members = 0
        self._markers = markers
        self._waiting: dict[bytes, tuple[str, Wake]] = {}
        self._keys: dict[str, bytes] = {}
        self._changed = asyncio.Event()
        self._link: FollowingLink | None = None
        self._client_id = 0
        self._refusal = ""
        # The keys of the current blocking call; a key in _waiting that is not among them is not waited for yet.
        self._blocked_on: frozenset[bytes] | None = None

    def add(self, queue: str, wake: Wake) -> None:
        """Wait for this queue too."""
        key = self._keys.get(queue)
        if key is None:
            key = self._keys[queue] = self._markers.key(queue)
        self._waiting[key] = (queue, wake)
        if self._blocked_on is None or key not in self._blocked_on:
            self._changed.set()
        if self._link is None:
            self._link = self._markers.open(self, key)

    def discard(self, queue: str) -> Wake | None:
        """Stop waiting for this queue; return the callback that was to be called."""
        key = self._keys.pop(queue, None)
        if key is None:
            return None
        entry = self._waiting.pop(key, None)
        return None if entry is None else entry[1]

    async def prepare(self, wire: Wire) -> None:
        """Read the id of each new connection: unblocking needs it."""
        self._client_id = int(await wire.call("CLIENT", "ID"))

    async def run(self, link: FollowingLink) -> None:
        """Wait for markers and wake their queues, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._interrupt(), name=f"markers:{self.name}:interrupt")
            while True:
                if not self._waiting:
                    self._changed.clear()
                    await self._changed.wait()
                try:
                    await link.up(60)
                    await self._wait_once(link)
                except ReplyError as exc:
                    if not await self._expel(link, exc):
                        await self._refused(exc)
                except (ConnectionLost, StoreTimeout) as exc:
                    log.debug("markers.wait_failed", lane=self.name, error=str(exc))
                    await asyncio.sleep(_BETWEEN_S)
                    self._wake_all()
                except StoreError as exc:
                    log.debug("markers.wait_failed", lane=self.name, error=str(exc))
                    await asyncio.sleep(_AWAY_S)
                finally:
                    self._blocked_on = None

    def _wake_all(self) -> None:
        """Wake all queues: the reply that was lost may have been a marker of any of them."""
        waiting, self._waiting = self._waiting, {}
        for _, wake in waiting.values():
            wake(0.0)

    async def _refused(self, refusal: ReplyError) -> None:
        """Log once that Redis refuses the call whatever its keys are, and pause; polls find the jobs meanwhile."""
        if refusal.message != self._refusal:
            self._refusal = refusal.message
            log.error("markers.refused", lane=self.name, error=refusal.message)
        await asyncio.sleep(_REFUSED_S)

    async def _expel(self, link: FollowingLink, refusal: ReplyError) -> bool:
        """Remove the queues whose marker keys hold another type of value; return False if there are none.

        Redis refused the call, which such a key would explain. The recoverer's polls serve those queues.
        """
        expelled = False
        keys = list(self._waiting)
        try:
            types = await link.pipeline([pack("TYPE", key) for key in keys])
        except StoreError as exc:
            log.debug("markers.types_failed", lane=self.name, error=exc.message)
            types = [b"none"] * len(keys)
        for key, kind in zip(keys, types, strict=True):
            if kind not in (b"zset", b"none", "zset", "none"):
                expelled = True
                queue, _ = self._waiting.pop(key, ("", None))
                log.error("markers.no_marker", queue=queue, key=key.decode(errors="replace"), error=refusal.message)
        await asyncio.sleep(_BETWEEN_S)
        return expelled

    async def _wait_once(self, link: FollowingLink) -> None:
        keys = list(self._waiting)
        if not keys:
            return  # the last queue was removed while the connection was being made
        self._changed.clear()
        self._blocked_on = frozenset(keys)
        popped = await link.call("BZPOPMIN", *keys, BLOCK_S)
        self._blocked_on = None
        if popped is None:
            return
        key, member, score = popped
        entry = self._waiting.pop(key, None)
        if entry is None:
            await self._markers.give_back(key, member, score)
            return
        queue, wake = entry
        self._markers.woke(queue)
        # The marker "0" says now; the marker "1" has the time of the earliest delayed job as its score.
        # A held job has a time that never comes: it waits for its group, which may start it now.
        at_ms = float(score)
        wake(0.0 if member == b"0" or at_ms >= HELD_MS else at_ms / 1000)

    async def _interrupt(self) -> None:
        """Unblock the lane when a queue is added, so that it blocks again with the new keys."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_GATHER_S)  # several queues are often added at once
            if not self._changed.is_set():
                continue  # the lane has taken the new keys by itself
            if self._blocked_on is None or not self._waiting:
                await asyncio.sleep(_BETWEEN_S)  # between two calls, or not connected: the next call has the new keys
                continue
            try:
                # False: our BZPOPMIN has not reached Redis yet, or has just returned. Look again either way.
                await self._markers.unblock(next(iter(self._waiting)), self._client_id)
            except StoreError as exc:
                log.debug("markers.unblock_failed", lane=self.name, error=str(exc))
                await asyncio.sleep(0.1)
