"""Job schedulers on a real Valkey, where what is stored is not whole."""

import time

from tests.conformance.worlds import RealWorld
from toril.bull.keys import QueueKeys
from toril.bull.schedulers import Schedulers
from toril.core.scheduler import SchedulerSpec


async def test_a_scheduler_that_makes_no_job_any_more_is_not_there(world: RealWorld) -> None:
    schedulers = Schedulers(world.scripts, "bull", lambda: int(time.time() * 1000))
    await schedulers.put(world.queue, "tick", SchedulerSpec(every=60_000))
    assert await schedulers.get(world.queue, "tick") is not None
    keys = QueueKeys("bull", world.queue)
    await world.scripts.links.of(keys.prefix).call("ZREM", keys.key("repeat"), "tick")
    assert await schedulers.get(world.queue, "tick") is None
    assert await schedulers.get(world.queue, "never-was") is None
