"""Instances are told of settled jobs over real Redis; what is no notification stops none."""

import asyncio

from tests.conformance.bullmq.links import address_of, up
from tests.support.valkey import ValkeyProcess
from toril.bullmq.settlement_notifications import RedisSettlementNotifications
from toril.redis.policy import StorePolicy


async def test_a_notification_behind_an_unreadable_one_is_heard(valkey: ValkeyProcess, queue: str) -> None:
    async with up(address_of(valkey)) as link:
        notifications = RedisSettlementNotifications(link, StorePolicy(), queue)
        await link.call("RPUSH", f"toril:settled:{queue}", b"\xff{", b"")
        await notifications.tell(queue.encode(), "orders", b"1")
        heard: list[tuple[str, bytes]] = []
        came = asyncio.Event()

        def hear(name: str, job_id: bytes) -> None:
            heard.append((name, job_id))
            came.set()

        following = asyncio.ensure_future(notifications.follow(hear))
        try:
            await asyncio.wait_for(came.wait(), 20)
        finally:
            following.cancel()
        assert heard == [("orders", b"1")]
